"""Exclusive file locks, released when the process ends in any way.

Without system support (Windows, some network file systems) nothing is locked.
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

_GLANCE = 1.0  # seconds; read_holder holds the lock for less
_STEP = 0.02
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # do not wait for a pipe in its place


class FileLock:
    """A lock that this process holds, from :func:`take`.

    Args:
        handle: the open file.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @property
    def handle(self) -> int | None:
        """Return the file descriptor, which a process can be given to hold the lock as well; None once released."""
        return self._handle

    def release(self) -> None:
        """Release the lock; calling it again has no effect."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


_private: weakref.WeakSet[FileLock] = weakref.WeakSet()


def take(file: Path, *, patience: float | None = None, inheritable: bool = False, note: str = "") -> FileLock | None:
    """Lock a file, which is created if missing; its folder must exist.

    Args:
        file: the file. Its content is unchanged without a ``note``.
        patience: seconds to wait for another holder; ``math.inf`` waits without limit, None a moment.
        inheritable: child processes that inherit open files hold the lock too.
        note: text for :func:`read_holder` in other processes, written to the file.

    Returns:
        The lock, or None if another process holds it.

    Raises:
        UserError: a folder or a loop of links is in its place.
        OSError: the file cannot be created.
    """
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | _AT_ONCE, 0o644)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise
            raise UserError(
                f"A lock file cannot be created at {file}", found=error.strerror, remedy="move this path away"
            ) from error
        try:
            if not _lock(handle, _GLANCE if patience is None else patience):
                os.close(handle)
                return None
            if not _is_current(handle, file):  # the holder removed or renamed it before releasing it
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


def read_holder(file: Path) -> str | None:
    """Return the note of the lock's holder; None if the file is not locked."""
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


def _is_current(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _release_in_child() -> None:
    """Release the locks in a forked child: DataLoader workers outlive a killed parent by seconds."""
    for lock in list(_private):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
