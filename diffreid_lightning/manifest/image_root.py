"""Read images by name from a folder or a .zip archive, from any process.

Names are POSIX paths below the root (``"query/0001_c1s1_001051_00.jpg"``) and never leave it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.archive import Archive, leaves_root
from diffreid_lightning.manifest.image_decoding import decode_image
from diffreid_lightning.paths import absolute_path, kind_of, read_regular
from diffreid_lightning.storage.atomic import describe_backup

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
"""File suffixes, in lower case, that count as images."""

_LARGEST_IMAGE, _LARGEST_FILE = 1 << 28, 1 << 31  # bytes read at once; a crop takes kilobytes, a manifest megabytes
# Copies and previews by macOS and Synology, and what lies at the root of a disk.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_SUFFIXES = tuple(sorted(IMAGE_SUFFIXES))


def is_image_name(name: str) -> bool:
    """Return true if a file has the suffix of an image (any case) and is not hidden, like macOS's ``._x.jpg``."""
    return name.lower().endswith(_SUFFIXES) and name[name.rfind("/") + 1] != "."


class ImageRoot:
    """A folder, a .zip archive, or a folder inside one (``data/market.zip/Market-1501-v15.09.15``).

    It can be pickled, and used from forked or spawned DataLoader workers and from several threads.

    Args:
        path: a folder, a zip file, or a path inside a zip file. ``~`` is expanded. Links to folders below the path are
            followed.

    Raises:
        UserError: ``path`` does not exist, or is a file other than a zip archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute_path(path)
        self._archive: Archive | None = None
        self._prefix = ""
        if self.path.is_dir():
            return
        file = next((parent for parent in (self.path, *self.path.parents) if parent.is_file()), None)
        if file is None:
            raise _missing_error(self.path)
        self._archive = Archive(file)
        inner = self.path.relative_to(file).as_posix()
        self._prefix = "" if inner == "." else inner + "/"
        _, entries = self._archive.open()
        if self._prefix and not any(name.startswith(self._prefix) for name in entries):
            is_file = inner in entries
            raise UserError(
                f"There is no folder {inner!r} in the archive {file}",
                found="a file of that name"
                if is_file
                else shorten(ImageRoot(file).folders()) or "an archive without folders",
                remedy="unpack the archive, and give the path of the file"
                if is_file
                else "correct the part of the path after the archive's name",
            )

    def __repr__(self) -> str:
        return f"ImageRoot({str(self.path)!r})"

    @property
    def in_archive(self) -> bool:
        """Return true if the images are read from a zip file."""
        return self._archive is not None

    def below(self, folder: str) -> ImageRoot:
        """Return a subfolder as a root, sharing the archive's handle."""
        self._check(folder)
        child = object.__new__(ImageRoot)
        child.path, child._archive, child._prefix = self.path / folder, self._archive, f"{self._prefix}{folder}/"
        return child

    def folders(self) -> list[str]:
        """Return the sorted names of the direct subfolders, without hidden ones and those of systems (``__MACOSX``)."""
        if self._archive is None:
            try:
                with os.scandir(self.path) as entries:
                    return sorted(entry.name for entry in entries if _is_folder(entry) and _visible(entry.name))
            except (FileNotFoundError, NotADirectoryError):
                return []
            except OSError as error:
                raise _listing_error(self.path, error) from error
        rest = (name[len(self._prefix) :] for name in self._archive.open()[1] if name.startswith(self._prefix))
        return sorted({name.split("/", 1)[0] for name in rest if "/" in name and _visible(name.split("/", 1)[0])})

    def names(self, under: str = "") -> list[str]:
        """Return every visible file at or below a folder, images or not, as sorted names relative to the root.

        Args:
            under: a folder below the root; "" is the root itself. A missing folder counts as empty.
        """
        if under:
            self._check(under)
        if self._archive is None:
            return sorted(self._walk(under))
        start = self._prefix + (f"{under}/" if under else "")
        cut = len(self._prefix)
        inside = (name[cut:] for name in self._archive.open()[1] if name.startswith(start))
        return sorted(name for name in inside if all(map(_visible, name.split("/"))))

    def images(self, under: str = "") -> list[str]:
        """Return the names of ``names(under)`` that are images."""
        return [name for name in self.names(under) if is_image_name(name)]

    def peek(self, under: str, limit: int) -> list[str]:
        """Return at most ``limit`` names of ``images(under)``, the first ones found, without listing the rest."""
        if under:
            self._check(under)
        walk = self._walk(under) if self._archive is None else iter(self.names(under))
        return sorted(itertools.islice(filter(is_image_name, walk), limit))

    def exists(self, name: str) -> bool:
        """Return true if there is a file of this name. Raises UserError for a name outside the root."""
        self._check(name)
        if self._archive is None:
            return os.path.isfile(self._locate(name))  # noqa: PTH113 (hot)
        return self._prefix + name in self._archive.open()[1]

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Args:
            name: POSIX path below the root.

        Raises:
            UserError: the name leaves the root, or the file is missing, not a regular file, unreadable, or larger than
                allowed (256 MiB for an image, else 2 GiB).
        """
        self._check(name)
        try:
            most = _LARGEST_IMAGE if is_image_name(name) else _LARGEST_FILE
            if self._archive is None:
                return read_regular(self._locate(name), most)
            return self._archive.read(self._prefix + name, most)
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise UserError(
                f"A file is missing: {self.path / name}",
                looked_for=f"{name!r} in {self.path}",
                remedy="restore the file, or build the manifest again from the existing files",
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # zipfile and its decompressors raise many types on damaged members
            raise UserError(
                f"A file cannot be read: {self.path / name}",
                found=_reason(error),
                remedy="check its permissions and the disk, or copy or unpack it again (no encrypted archives)",
            ) from error

    def read_start(self, name: str, size: int) -> bytes:
        """Return a regular file's first ``size`` bytes; raises UserError like ``read``."""
        self._check(name)
        try:
            if self._archive is None:
                if not os.path.isfile(self._locate(name)):  # noqa: PTH113 (a pipe would wait for a writer)
                    raise FileNotFoundError(name)
                with open(self._locate(name), "rb") as file:  # noqa: PTH123
                    return file.read(size)
            handle, entries = self._archive.open()
            with handle.open(entries[self._prefix + name]) as member:
                return member.read(size)
        except Exception as error:  # zipfile raises many types on damaged members
            raise UserError(f"A file cannot be read: {self.path / name}", found=str(error)) from error

    def fingerprint(self, names: Iterable[str], times: bool = True) -> str:
        """Hash the state of files without reading them, to detect changes: 64 hexadecimal digits.

        The state is the size and modification time in a folder, the size and CRC-32 in an archive. A folder copied
        without its times has another fingerprint.

        Args:
            names: POSIX paths below the root; missing files count too.
            times: count modification times in a folder; without them a copy has the same fingerprint.
        """
        digest = hashlib.sha256()
        for name in names:
            size, state = self._state(name)
            state = state if times or self.in_archive else 0
            digest.update(f"{name}\0{size}\0{state}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, without reading it; -1 for a missing one."""
        return self._state(name)[0]

    def _state(self, name: str) -> tuple[int, int]:
        """Return a file's size, and its time in a folder or CRC-32 in an archive; -1 and 0 for a missing one."""
        if self._archive is not None:
            info = self._archive.open()[1].get(self._prefix + name)
            return (-1, 0) if info is None else (info.file_size, info.CRC)
        try:
            stat = os.stat(self._locate(name))  # noqa: PTH116 (hot)
        except OSError:
            return -1, 0
        return stat.st_size, stat.st_mtime_ns

    def image(self, name: str) -> Image.Image:
        """Return an image as 8-bit RGB, see ``decode_image``.

        Args:
            name: POSIX path below the root.

        Raises:
            UserError: the file is missing, empty, truncated or not an image.
        """
        return decode_image(self.read(name), str(self.path / name))

    def image_or_reason(self, name: str) -> tuple[Image.Image, None] | tuple[None, str]:
        """Return an image, or the reason why it cannot be read.

        The reason contains no path above the root, so that results do not depend on the folder.

        Args:
            name: POSIX path below the root.
        """
        try:
            return self.image(name), None
        except UserError as error:
            return None, f"unreadable image: {error.found or error.what}".replace(f"{self.path}/", "")

    def _check(self, name: str) -> None:
        if leaves_root(name):
            raise UserError(
                f"The name {name!r} leaves its root {self.path}",
                looked_for="a relative POSIX path without '.', '..', '//' or backslashes",
                remedy="correct the name in its manifest or list",
            )

    def _locate(self, name: str) -> str:
        return os.path.join(self.path, name)  # noqa: PTH118 (hot: a Path object costs ten times as much)

    def _walk(self, under: str) -> Iterator[str]:
        top = self.path.stat()
        pending = [(under, {(top.st_dev, top.st_ino)} if under else set())]
        while pending:
            folder, above = pending.pop()
            prefix = f"{folder}/" if folder else ""
            try:
                stat = os.stat(self._locate(folder))  # noqa: PTH116 (a name, not a Path)
                if (stat.st_dev, stat.st_ino) in above:  # a link that points back up
                    continue
                entries = os.scandir(self._locate(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise _listing_error(self.path / folder, error) from error
            here = above | {(stat.st_dev, stat.st_ino)}
            with entries:
                for entry in entries:
                    if not _visible(entry.name):
                        continue
                    if _is_folder(entry):
                        pending.append((prefix + entry.name, here))
                    else:
                        yield prefix + entry.name


def _visible(part: str) -> bool:
    return not part.startswith(".") and part not in _SYSTEM_FOLDERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _listing_error(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"A folder cannot be listed: {folder}", found=_reason(error), remedy="check its permissions and the disk"
    )


def _reason(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _missing_error(path: Path) -> UserError:
    kind = kind_of(path)
    if kind is not None:
        return UserError(
            f"There is neither a folder nor an archive at {path}",
            looked_for="a folder or a .zip archive",
            found=kind,
            remedy="give the path of a dataset's folder or .zip",
        )
    parent = next(parent for parent in path.parents if parent.is_dir())
    around = sorted(entry.name for entry in os.scandir(parent) if _visible(entry.name))
    missing = path.relative_to(parent).parts[0]
    guess = nearest(missing, around)
    return UserError(
        f"There is nothing at {path}",
        looked_for="a folder or a .zip archive",
        found=describe_backup(parent / missing) or f"{parent} holds {shorten(around) or 'nothing'}",
        remedy=f"did you mean {parent / guess}?" if guess else "correct the path",
    )
