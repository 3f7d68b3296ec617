"""Read members of .zip archives from any process, with errors for damaged archives."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from diffreid_lightning.errors import UserError, shorten

UNSAFE_NAME = r"(?:^|/)\.{0,2}(?:/|$)|\\|\x00|^[A-Za-z]:"
"""Pattern of names that leave their root or have two spellings: absolute, ``..``, ``.``, ``//``, backslash, drive.

Written in the common dialect of Python's ``re`` and Arrow's RE2, which checks whole columns.
"""

_unsafe = re.compile(UNSAFE_NAME)


def leaves_root(name: str) -> bool:
    """Return true if a name could leave its root or has two spellings, see ``UNSAFE_NAME``."""
    return _unsafe.search(name) is not None


class Archive:
    """A zip file, opened once per process.

    A handle shared over ``fork`` would share its file position with the parent, and it cannot be pickled for ``spawn``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile, dict[str, zipfile.ZipInfo]] | None = None

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def open(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        """Return this process's handle, and the files by POSIX name."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._read_directory())
        return self._opened[1:]

    def _read_directory(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        try:
            handle = zipfile.ZipFile(self.path)
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises many types on a damaged directory: NotImplementedError, ...
            raise UserError(
                f"An archive cannot be opened: {self.path}",
                looked_for="a folder or a .zip archive",
                found=f"{type(error).__name__}: {error}",
                remedy="download or copy the archive again; unpack other archive types to a folder",
            ) from error
        entries: dict[str, zipfile.ZipInfo] = {}
        twice = []
        for info in handle.infolist():
            # Some Windows tools write backslashes, some Unix tools a leading "./".
            name = info.filename.replace("\\", "/")
            if name.endswith("/"):  # a folder
                continue
            name = name.removeprefix("./")
            other = entries.setdefault(name, info)
            if (other.CRC, other.file_size) != (info.CRC, info.file_size):
                twice.append(name)
        if twice:
            handle.close()
            raise UserError(
                f"An archive holds different files of the same name: {self.path}",
                found=f"{len(twice)} names: {shorten(map(repr, twice))}",
                remedy="create it again from its folder",
            )
        unsafe = [name for name in entries if leaves_root(name)]
        if unsafe:
            handle.close()
            raise UserError(
                f"An archive holds names outside of it: {self.path}",
                found=shorten(map(repr, unsafe)),
                remedy="do not trust this archive; create it again from its folder",
            )
        return handle, entries

    def read(self, name: str, most: int) -> bytes:
        """Read one member. Raises KeyError if it does not exist, any exception if it is damaged or too large."""
        handle, entries = self.open()
        info = entries[name]
        if info.file_size > most:
            raise OSError(f"it unpacks to {info.file_size:,} bytes, more than the {most:,} that are read at once")
        with handle.open(info) as member:
            return member.read(info.file_size)  # without a size, zipfile unpacks everything before it truncates
