"""Fork commands from a server that has imported everything once: importing takes longer than a small cell.

The server only imports, so a forked process is like a fresh interpreter, with an environment and signals of its own.
Not used with GPUs: whatever an import asked the driver would be shared.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any

from diffreid_lightning.cores import THREADS

_PACKAGE = __package__.partition(".")[0]
#: the last is what W&B imports as a run starts, which takes as long as the rest
_PRELOADED = (__name__, f"{_PACKAGE}.cli.lightning_imports", "wandb.sdk.launch")
#: signals that may come to the whole process group; not all of them are on every system
_TO_ALL = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_served: int | None = None  # stamp of the code that the server has imported


class Descriptor:
    """A file descriptor that goes along to a forked process.

    Args:
        number: the descriptor, in this process.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


def fork_server() -> Any:
    """Return the multiprocessing context whose processes are forked from the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


def start_server(threads: str) -> None:
    """Start the server, unless it runs; it imports while this process goes on.

    Args:
        threads: ``OMP_NUM_THREADS`` of its commands, which libraries read as they are loaded.
    """
    global _served
    fork_server()
    if _served is None:
        _served = _code_stamp()
    resource_tracker.ensure_running()  # it unblocks signals
    before = os.environ.get(THREADS)
    os.environ[THREADS] = threads
    # The server must survive its commands: without it, nobody hears how they end. Whom it forks unblocks them again.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


def serves_present_code() -> bool:
    """Return true unless a file of the package has changed since the server has imported it."""
    return _served in (None, _code_stamp())


def _code_stamp() -> int:
    files = (Path(__file__).parents[1]).rglob("*.py")
    return hash(frozenset((str(file), file.stat().st_mtime_ns) for file in files))


@contextmanager
def _hide_main() -> Iterator[None]:
    """Hide this process's main module: a child would run a script that has no guard once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ForkedCommand:
    """A command in a process that is forked from the server; it is killed when this process ends.

    Args:
        words: what follows ``python -m diffreid_lightning``.
        environment: all of its environment, with ``OMP_NUM_THREADS``.
        output: descriptor of the file that it writes to.
        held: descriptor of a lock that it holds as well; None for none.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], output: int, held: int | None) -> None:
        context = fork_server()
        start_server(environment[THREADS])
        reader, self._alive = context.Pipe(duplex=False)  # closed, by whatever ends this process
        kept = None if held is None else Descriptor(held)
        arguments = (list(words), dict(environment), Path.cwd(), Descriptor(output), kept, reader)
        self._process = context.Process(target=_run, args=arguments)
        with _hide_main():
            self._process.start()
        reader.close()

    def poll(self) -> int | None:
        """Return the exit code, negative where a signal ended it; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _run(
    words: list[str],
    environment: dict[str, str],
    folder: Path,
    output: Descriptor,
    held: Descriptor | None,
    alive: Any,
) -> None:
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    take_streams(output.number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _set_threads(environment[THREADS])
    _unblock()
    run_command(words)


def _unblock() -> None:
    """Hear the signals that the server does not."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_ALL)


def _set_threads(threads: str) -> None:
    """Set the number of threads, where the server was started for commands with another one."""
    import torch  # imported by the server, and not by the process that starts it

    if threads.isdecimal() and torch.get_num_threads() != int(threads):
        torch.set_num_threads(int(threads))


def _end_with(alive: Any) -> None:
    """Kill this process when the pipe's other end is closed."""
    with suppress(EOFError, OSError):
        alive.recv_bytes()
    os.kill(os.getpid(), signal.SIGKILL)


def take_streams(output: int) -> None:
    """Let stdout and stderr of this process be a descriptor: those of the server belong to the file it had."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
        2, "w", closefd=False, buffering=1, errors="backslashreplace"
    )


def run_command(words: Sequence[str]) -> None:
    """Be ``python -m diffreid_lightning WORDS``, which Lightning starts once more for a second process.

    Raises:
        SystemExit: with the command's exit code.
    """
    gc.freeze()  # what the server has imported: a collection would look at it and, by that, copy it
    multiprocessing.set_start_method(None, force=True)  # a loader's workers are its own
    sys.argv = [_PACKAGE, *words]
    runpy.run_module(_PACKAGE, run_name="__main__", alter_sys=True)
