"""Check the paths that users write, and the files behind them, before anything is opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from diffreid_lightning.errors import UserError

_LEFT_TO_THE_CALLER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)  # of another machine or another person, it may be
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def user_path(given: str | os.PathLike[str]) -> Path:
    """Return the path that a user has written, ``~`` expanded; there need be nothing at it.

    Args:
        given: as it was written.

    Raises:
        UserError: the system cannot look for it: a home folder of nobody, a name too long, a zero byte, or a loop
            of links.
    """
    try:
        path = Path(given).expanduser()
        path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _LEFT_TO_THE_CALLER:
            return path
        text = os.fspath(given)
        raise UserError(
            f"A path cannot be used: {text if len(text) <= 300 else text[:300] + '...'!r}",
            looked_for="a path that the system can look for",
            found=error.strerror if isinstance(error, OSError) and error.strerror else str(error),
            remedy="correct the path; a name that begins with ~ and is no home folder is written ./~name",
        ) from error
    return path


def absolute_path(given: str | os.PathLike[str]) -> Path:
    """Return ``user_path(given)`` as an absolute path without ``..``; links are not followed.

    Raises:
        UserError: as ``user_path``.
    """
    return Path(os.path.abspath(user_path(given)))  # noqa: PTH100 (resolve() would follow links)


def make_folder(folder: Path) -> None:
    """Create a folder that a user has named, with those above it, unless it is there.

    Raises:
        UserError: there can be none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"There can be no folder {folder}.", found=f"{type(error).__name__}: {error}", remedy="give another one"
        ) from error


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Name what lies at a path where it is neither a regular file nor a folder; None for these and for nothing.

    Args:
        path: links are followed, as far as they lead somewhere.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (a name, not a Path object, in hot places)
    except OSError:
        return "a link to nothing" if os.path.islink(path) else None  # noqa: PTH114
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")


def not_a_file(path: Path) -> str | None:
    """Name what lies in the place of a regular file, for an error message; None for a regular file.

    Args:
        path: links are followed, as far as they lead somewhere.
    """
    try:
        if path.is_file():
            return None
        return "a folder" if path.is_dir() else kind_of(path) or "no file"
    except (OSError, ValueError) as error:  # a loop of links, a name that the system does not take
        return f"{type(error).__name__}: {error}"


def read_regular(path: str, most: int) -> bytes:
    """Read a whole file that is none of the kinds that never end or never begin: a pipe, a socket, a device.

    Args:
        path: the file; links are followed.
        most: the largest size in bytes that is read.

    Raises:
        OSError: there is no such file, it is no regular file, it is larger, or it cannot be read.
    """
    found = os.stat(path)  # noqa: PTH116 (hot: a Path object costs ten times as much)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{kind_of(path) or 'a folder'} and no regular file")
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, more than the {most:,} that are read at once")
    with open(path, "rb") as file:  # noqa: PTH123 (hot)
        return file.read()
