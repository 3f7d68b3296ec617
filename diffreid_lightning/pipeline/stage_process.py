"""Run a stage in a subprocess: show its output, log it, and end it with its parent."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 16
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_TAIL = 4096  # bytes that hold a progress bar
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


def run_logged(words: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run ``python -m diffreid_lightning WORDS``; its output goes to the terminal and is appended to a log.

    On a terminal the command has one too, so that its progress bars move. Under Linux it ends when this process does.

    Args:
        words: the command and its arguments.
        environment: added to this process's own.
        log: the file.

    Returns:
        Its exit code; negative where a signal ended it.
    """
    command = [sys.executable, "-m", "diffreid_lightning", *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    on_terminal = sys.stdout.isatty()
    master, slave = _terminal() if on_terminal else os.pipe()
    try:
        process = subprocess.Popen(
            command,
            env=stage_environment(environment, on_terminal),
            stdout=slave,
            stderr=slave,
            close_fds=False,  # the lock on the chain's folder goes along; other files are not inheritable
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
    finally:
        os.close(slave)
    with log.open("ab") as file:
        try:
            return _until_it_ends(process, master, file)
        finally:
            os.close(master)


def stage_environment(variables: Mapping[str, str], on_terminal: bool) -> dict[str, str]:
    """Return the whole environment of a stage.

    Args:
        variables: added to this process's own.
        on_terminal: its output goes to a terminal.
    """
    around = {**os.environ, **variables}
    if not on_terminal:
        around.pop("FORCE_COLOR", None)  # a notebook sets it, and a progress bar would come as thousands of lines
    if "WANDB_SWEEP_ID" not in around:
        around.pop("WANDB_RUN_ID", None)  # the stages of a chain are runs of their own
    return around


class LoggedTerminal:
    """Give a command a terminal, so that its progress bars move; what it prints there goes to a log.

    Args:
        log: the file, which is appended to.
    """

    def __init__(self, log: Path) -> None:
        self._master, self.slave = _terminal()  #: the second is the command's
        os.set_blocking(self._master, False)
        self._log = log.open("ab")
        self._tail = b""

    def give_away(self) -> None:
        """Leave the terminal to the command, which has it now."""
        os.close(self.slave)

    def copy(self) -> None:
        """Copy what the command has printed since the last call; call it often, since a full terminal blocks it."""
        while block := self._read():
            self._log.write(block)
            self._log.flush()
            self._tail = (self._tail + block)[-_TAIL:]

    def _read(self) -> bytes:
        with suppress(OSError):  # there is nothing now, or its end has come
            return os.read(self._master, _BLOCK)
        return b""

    def newest_line(self) -> str:
        """Return the newest line that is not empty, without control sequences."""
        text = _ESCAPES.sub("", self._tail.decode("utf-8", errors="replace"))
        lines = (line.strip() for line in reversed(re.split(r"[\r\n]", text)))
        return next((line for line in lines if line), "")

    def close(self) -> None:
        """Copy what is left, and close the log and the terminal."""
        self.copy()
        self._log.close()
        os.close(self._master)


def last_words(log: Path) -> str:
    """Return the end of a log, without progress bars."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _BLOCK))  # a log may be larger than the memory
        text = file.read().decode("utf-8", errors="replace")
        kept = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
        return "\n".join([line for line in kept if line][-12:])
    return ""


def _terminal() -> tuple[int, int]:
    import pty  # not everywhere, and nowhere needed where there is no terminal

    return pty.openpty()


def _until_it_ends(process: subprocess.Popen[bytes], source: int, log: BinaryIO) -> int:
    """Copy a command's output until it ends, after Ctrl-C as well: unread output would block it forever.

    Raises:
        KeyboardInterrupt: the user interrupted; the command has ended by itself, with its last words in the log.
    """
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            _copy(source, log)
            code = process.wait()
            break
        except KeyboardInterrupt as error:
            # A second Ctrl-C is forwarded, as SIGTERM: shells start background commands with SIGINT ignored.
            if interrupted is not None or not heard_by_children(error):
                process.send_signal(signal.SIGTERM)
            interrupted = error
    if interrupted is not None:
        raise interrupted
    return code


def heard_by_children(interruption: KeyboardInterrupt) -> bool:
    """Return true if a terminal has interrupted the commands too: a second signal would end them in disorder.

    Args:
        interruption: a subclass tells of another signal, which came to this process alone.
    """
    return type(interruption) is KeyboardInterrupt and _in_foreground()


def _in_foreground() -> bool:
    """Return true if Ctrl-C on the terminal reaches this process and its children."""
    try:
        with Path("/dev/tty").open("rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, AttributeError):
        return False


def _copy(source: int, log: BinaryIO) -> None:
    while True:
        try:
            block = os.read(source, _BLOCK)
        except OSError:  # what the end of a pseudo-terminal looks like
            return
        if not block:
            return
        log.write(block)
        log.flush()
        _show(block)


def _show(block: bytes) -> None:
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(block)
    else:  # a notebook's
        sys.stdout.write(block.decode("utf-8", errors="replace"))
    sys.stdout.flush()


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends; called in the child, under Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
