"""Read .zip archives by name, from every process, whatever state they are in."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from diffreid_lightning.errors import UserError, shorten

UNSAFE_NAME = r"(?:^|/)\.{0,2}(?:/|$)|\\|\x00|^[A-Za-z]:"
"""Matches a name that could leave its root or has two spellings: absolute, ``..``, ``.``, ``//``, backslash, drive.

Written in the dialect that Python's ``re`` and Arrow's RE2 share, so that one image and a column of a million are
judged by the same rule.
"""

_unsafe = re.compile(UNSAFE_NAME)


def leaves_root(name: str) -> bool:
    """Tell whether a name could leave its root or has two spellings, as ``UNSAFE_NAME`` has it."""
    return _unsafe.search(name) is not None


class Archive:
    """A zip file opened once per process.

    The handle is made where it is used: a handle shared over ``fork`` would share its file position with the parent,
    and a handle cannot be pickled for ``spawn``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile, dict[str, zipfile.ZipInfo]] | None = None

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def opened(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        """Return this process's handle and the entries by POSIX name, files only."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._open())
        return self._opened[1:]

    def _open(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        try:
            handle = zipfile.ZipFile(self.path)
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises nearly anything on a damaged directory: NotImplementedError, ...
            raise UserError(
                f"An archive cannot be opened: {self.path}",
                looked_for="a folder or a .zip archive",
                found=f"{type(error).__name__}: {error}",
                remedy="download or copy the archive again; unpack other archive types to a folder",
            ) from error
        entries: dict[str, zipfile.ZipInfo] = {}
        twice = []
        for info in handle.infolist():
            if info.is_dir():
                continue
            # Some Windows tools write backslashes between folders, some Unix ones a leading "./".
            name = info.filename.replace("\\", "/").removeprefix("./")
            other = entries.setdefault(name, info)
            if (other.CRC, other.file_size) != (info.CRC, info.file_size):
                twice.append(name)
        if twice:
            handle.close()
            raise UserError(
                f"An archive holds different files of one name: {self.path}",
                found=f"{len(twice)} names: {shorten(map(repr, twice))}",
                remedy="make it again from its folder",
            )
        unsafe = [name for name in entries if leaves_root(name)]
        if unsafe:
            handle.close()
            raise UserError(
                f"An archive holds names that leave it: {self.path}",
                found=shorten(map(repr, unsafe)),
                remedy="do not trust this archive; make it again from its folder",
            )
        return handle, entries

    def read(self, name: str, most: int) -> bytes:
        """Read one member. Raises KeyError where there is none, or nearly anything where it is damaged or too large."""
        handle, entries = self.opened()
        info = entries[name]
        if info.file_size > most:
            raise OSError(f"it unpacks to {info.file_size:,} bytes, more than the {most:,} that are read at once")
        with handle.open(info) as member:
            return member.read(info.file_size)  # without a size, all that is there would be unpacked and then cut off
