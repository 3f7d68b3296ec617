"""Replace files and folders atomically."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffreid_lightning.errors import UserError, shorten

#: hidden names of locks and of interrupted writes
UNFINISHED = (".lock", ".parts", ".*.part", ".*.partial", ".*.previous")
#: hidden names in a folder that may be lost with it: these, and those of file managers and file systems
_PASSING = (*UNFINISHED, ".DS_Store", "._*", ".nfs*")


@contextmanager
def replace_file(file: Path, *, durable: bool = False, contended: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name, then replace ``file`` by it.

    Args:
        file: the file to replace; its folder must exist.
        durable: flush the file before and the folder after, so that the file survives a power cut.
        contended: several processes may write at once, so each uses its own temporary name, and a killed one leaves its
            file behind. Otherwise the next writer overwrites the rest of a killed one.

    Yields:
        The temporary path beside it. If the block fails, it is removed and ``file`` is unchanged.

    Raises:
        OSError: the disk failed.
    """
    staged = file.with_name(f".{file.name}.{os.getpid()}.part" if contended else f".{file.name}.part")
    try:
        yield staged
        if durable:
            _flush(staged, os.O_RDWR)
        os.replace(staged, file)  # noqa: PTH105 (documented as atomic)
    except BaseException:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
    if durable and hasattr(os, "O_DIRECTORY"):
        _flush(file.parent, os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder, then replace ``folder`` by it; use it in one process only.

    If an earlier exchange was killed between its two renames, the old folder is restored first.

    Args:
        folder: the folder to replace; its parent is created if missing.

    Yields:
        An empty folder beside it. If the block fails, it is removed and ``folder`` is unchanged.

    Raises:
        OSError: the disk failed.
    """
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()  # the link stays, its target is replaced
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists() and backup_of(folder).is_dir():
            backup_of(folder).rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _open_tensors(partial)
        exchange(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_tensors(folder: Path) -> None:
    """Give the files of safetensors, which creates them for their owner alone, the mode of any new file."""
    mode = folder.stat().st_mode & 0o666  # the folder's own is what the umask has left
    for file in folder.rglob("*.safetensors"):
        if not file.is_symlink():
            file.chmod(mode)


def backup_of(folder: Path) -> Path:
    """Return the path of the old folder during the exchange."""
    return folder.with_name(f".{folder.name}.previous")


def describe_backup(folder: Path) -> str | None:
    """Describe the backup that an interrupted exchange left of a missing folder; None if there is none."""
    backup = backup_of(folder)
    if folder.exists() or not backup.is_dir():
        return None
    return f"no such folder, but an interrupted export left the old one at {backup}: rename it back"


def describe_existing(folder: Path) -> str:
    """Describe what is at a path, for an error message about a missing folder."""
    if folder.is_dir():
        return "a folder with " + (shorten(sorted(entry.name for entry in folder.iterdir()), 8) or "nothing in it")
    return describe_backup(folder) or ("a file" if folder.exists() else "no such folder")


def exchange(new: Path, folder: Path) -> None:
    """Replace ``folder`` by ``new``; at every moment one of the two or the backup is complete on the disk."""
    backup = backup_of(folder)
    if folder.exists():
        shutil.rmtree(backup, ignore_errors=True)
        folder.rename(backup)
    try:
        new.rename(folder)
    except OSError:
        if backup.exists():
            backup.rename(folder)
        raise
    shutil.rmtree(backup, ignore_errors=True)


def refuse_foreign(
    folder: Path, marks: Sequence[str], what: str, remedy: str, names: Collection[str] | None = None
) -> None:
    """Refuse to replace a folder that the same stage did not write, or that somebody added to, unless it is empty.

    Args:
        folder: the folder to replace.
        marks: files below it that identify the stage; the error shows the last one.
        what: the new content, with its article, for the error.
        remedy: what to do.
        names: all that the stage writes directly below it; None looks at the marks and at hidden names alone. Hidden
            names of locks and interrupted writes may be there; others (a clone's ``.git``) are somebody's.

    Raises:
        UserError: it holds something else, or is the current folder.
    """
    if folder.exists() and folder.resolve() == Path().resolve():
        raise UserError(f"The current folder is not replaced by {what}.", found=str(folder), remedy=remedy)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((folder / name).is_file() for name in marks):
        raise UserError(
            f"{folder} holds something else and is not replaced by {what}.",
            looked_for=f"a new or empty folder, or an earlier one, with its {marks[-1]}",
            found="other files" if folder.is_dir() else "a file",
            remedy=remedy,
        )
    present = sorted(each.name for each in folder.iterdir() if names is None or each.name not in names)
    hidden = [name for name in present if name[0] == "." and not any(fnmatch.fnmatch(name, own) for own in _PASSING)]
    added = hidden if names is None else [name for name in present if name[0] != "." or name in hidden]
    if added:
        raise UserError(
            f"{folder} is not replaced by {what}: it also holds what would be lost.",
            looked_for=f"nothing but {shorten(sorted(names))}" if names else "nothing hidden",
            found=shorten(added),
            remedy=f"move that elsewhere; or {remedy[0].lower()}{remedy[1:]}",
        )


def refuse_foreign_file(file: Path, is_own: Callable[[Path], bool], what: str, own: str, option: str) -> None:
    """Refuse to replace a file that an earlier command of the same kind did not write, unless it is empty.

    Args:
        file: the file to replace.
        is_own: tells whether such a command wrote it.
        what: the new content, with its article, for the error.
        own: an earlier one, with its article.
        option: the flag that names the file.

    Raises:
        UserError: it is a file of something else.
    """
    if not file.is_file() or not file.stat().st_size or is_own(file):
        return
    raise UserError(
        f"{file} is not replaced by {what}.",
        looked_for=f"a new file, or {own}",
        found="a file of something else",
        remedy=f"give another {option}, or remove it yourself",
    )
