"""Handle the signals that end a command: SIGINT, SIGTERM and SIGHUP."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # not all of them on every system
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_put_aside: dict[int, Any] = {}  # handlers as they were before :func:`ignore`


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP has arrived. A KeyboardInterrupt, so that Lightning puts its processes and loggers in order."""


class Arrived:
    """Signals received so far.

    Attributes:
        first: the first of them, None as long as there is none.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._owner = os.getpid()

    @property
    def exit_code(self) -> int | None:
        """128 + number of the first signal, as shells have it; None where none has arrived."""
        return None if self.first is None else 128 + self.first

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Store a signal and end the command.

        Raises:
            KeyboardInterrupt: wherever the main thread is.
        """
        if os.getpid() != self._owner:  # a forked worker, which has nothing to put in order
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.first = self.first or number
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def noticed() -> Iterator[Arrived]:
    """End the enclosed code at the first signal, and store which it was.

    A loader worker dies of the same signal when it is sent to the whole process group, and whatever error that leads
    to then hides the interruption; what is remembered does not. Signals that are ignored (nohup) or handled by
    somebody else are left alone, and so are all outside the main thread.

    Yields:
        What has arrived.
    """
    arrived = Arrived()
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) in _DEFAULTS:
                replaced[number] = signal.signal(number, arrived)
    try:
        yield arrived
    finally:
        for number, handler in [*_put_aside.items(), *replaced.items()]:
            signal.signal(number, handler)
        _put_aside.clear()


def ignore() -> None:
    """Ignore all further signals while the final message is printed.

    That of a loader process that has ended too: torch answers it with an error, wherever the main thread is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in (*_NAMES, "SIGCHLD"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            before = signal.signal(number, signal.SIG_DFL if name == "SIGCHLD" else signal.SIG_IGN)
            _put_aside.setdefault(number, before)
