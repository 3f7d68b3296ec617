"""Locks on files: one process holds one at a time, and it goes with the process, however that ends.

Where the system has none (Windows, some network file systems), nothing is locked and nobody is kept out.
"""

from __future__ import annotations

import errno
import os
import time
import weakref
from pathlib import Path

from diffreid_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_GLANCE = 1.0  # seconds; whoever only looks (held_by) holds the lock for less
_STEP = 0.02
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe in its place is not waited for


class FileLock:
    """A lock that this process holds, as :func:`take` gives it.

    Args:
        handle: the open file.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        """Let others have it; a second time does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


_private: weakref.WeakSet[FileLock] = weakref.WeakSet()


def take(file: Path, *, patience: float = _GLANCE, inheritable: bool = False, note: str = "") -> FileLock | None:
    """Lock a file; it is made if need be, and its folder must be there.

    Args:
        file: the file. Its content is no matter, and is left alone unless ``note`` is given.
        patience: seconds to wait for whoever holds it to let go; ``math.inf`` waits for however long it takes.
        inheritable: programs that this process starts with their files open hold it too.
        note: what :func:`held_by` tells the others; it becomes the file's content.

    Returns:
        The lock, or None when another process holds it.

    Raises:
        UserError: a folder or a loop of links lies in its place.
        OSError: the file cannot be made.
    """
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | _AT_ONCE, 0o644)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise
            raise UserError(
                f"Something else lies in the place of a lock: {file}", found=error.strerror, remedy="move it away"
            ) from error
        try:
            if not _lock(handle, patience):
                os.close(handle)
                return None
            if not _is_there(handle, file):  # its holder removed or renamed it before letting go
                os.close(handle)
                continue
            if note:
                os.ftruncate(handle, 0)
                os.pwrite(handle, note.encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        lock = FileLock(handle)
        if inheritable:
            os.set_inheritable(handle, True)
        else:
            _private.add(lock)
        return lock


def held_by(file: Path) -> str | None:
    """Return the note of whoever holds the lock on a file; None when nobody does."""
    try:
        handle = os.open(file, os.O_RDONLY | _AT_ONCE)
    except OSError:
        return None
    try:
        if fcntl is None or _try(handle, shared=True):
            return None
        return os.read(handle, 4096).decode(errors="replace")
    finally:
        os.close(handle)


def _lock(handle: int, patience: float) -> bool:
    if fcntl is None:
        return True
    deadline = time.monotonic() + patience
    while not _try(handle, shared=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_STEP)
    return True


def _try(handle: int, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_there(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked child: a DataLoader's worker outlives a killed parent by seconds, and must not hold its locks."""
    for lock in list(_private):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
