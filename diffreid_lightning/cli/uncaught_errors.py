"""Report unexpected errors: one message, with the traceback in a file.

``main`` calls it last, for an error that no other file has turned into one of this package.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffreid_lightning.cli import run_folder
from diffreid_lightning.errors import RunError

WORKER_TRACEBACK = "Original Traceback (most recent call last)"
_LONGEST = 300  # characters of a foreign message that are shown
_LONGEST_TRACEBACK = 1 << 16  # characters
_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "failed to map segment", "Cannot allocate memory")


def unforeseen(error: BaseException) -> RunError:
    """Describe an unexpected error.

    Args:
        error: as it was caught.
    """
    return RunError(
        "The command failed in a way that it has no words for.",
        found=told(error),
        remedy=f"the traceback, for whoever looks into it, is in {save_traceback(error)}; what was finished before is "
        "intact: a fit goes on with --ckpt_path last, other commands with the same words",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return true if an error says that memory ran out: Python's, the system's, or torch's, which is not imported."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _NO_MEMORY)


def told(error: BaseException) -> str:
    """Return kind and first line of a foreign error; of one that crossed from a loader process, the original's."""
    text = str(error).strip()
    lines = text.splitlines() or [""]
    line = lines[-1] if WORKER_TRACEBACK in text else f"{type(error).__name__}: {lines[0]}".rstrip(": ")
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def save_traceback(error: BaseException, *, refused: bool = False) -> str:
    """Write the traceback into the run folder, or a temporary file where there is none; returns where it is.

    Args:
        error: as it was caught.
        refused: a setting is the cause: the folder of a run that has made nothing is not kept for it.
    """
    text = "".join(traceback.format_exception(error))[-_LONGEST_TRACEBACK:]
    rank = run_folder.launched_rank()
    name = f"traceback-rank{rank}.txt" if rank else "traceback.txt"
    folder = os.environ.get(run_folder.ENVIRONMENT)
    with suppress(OSError):
        if folder and Path(folder).is_dir() and not (refused and run_folder.made_nothing(Path(folder))):
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8", errors="replace")
            return str(path)
        handle, temporary = tempfile.mkstemp(prefix="diffreid-", suffix=f"-{name}", text=True)
        with open(handle, "w", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 (a descriptor)
            file.write(text)
        return temporary
    return f"nowhere, as no file can be written; its end: {text.strip().splitlines()[-3:]}"


@contextmanager
def threads_worded() -> Iterator[None]:
    """Report errors that end a background thread, which the command itself may not see."""
    before = threading.excepthook

    def say(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and not issubclass(failed.exc_type, SystemExit):
            where = save_traceback(failed.exc_value)
            print(f"warning: a background thread ended: {told(failed.exc_value)}; see {where}", file=sys.stderr)

    threading.excepthook = say
    try:
        yield
    finally:
        threading.excepthook = before
