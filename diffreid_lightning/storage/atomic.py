"""Files and folders that appear whole or not at all, and what may stand in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffreid_lightning.errors import UserError, shorten


@contextmanager
def replacing_file(file: Path, *, durable: bool = False, contended: bool = False) -> Iterator[Path]:
    """Write a file under another name, then put it in the place of ``file``.

    Args:
        file: the file to replace; its folder must be there.
        durable: flush it to the disk before, and the folder after, so that it survives a power cut as well.
        contended: several processes may write it at once, so each takes a name of its own, which a killed one leaves
            behind. Otherwise the next to write it writes over what a killed one left.

    Yields:
        The path beside it to write to. When the block fails, it is removed and ``file`` is what it was.

    Raises:
        OSError: the disk refuses.
    """
    staged = file.with_name(f".{file.name}.{os.getpid()}.part" if contended else f".{file.name}.part")
    try:
        yield staged
        if durable:
            _flush(staged, os.O_RDWR)
        os.replace(staged, file)  # noqa: PTH105 (the atomic one, by its name)
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
def replacing(folder: Path) -> Iterator[Path]:
    """Fill a new folder, then put it in the place of ``folder``; under several processes use it on one of them.

    Where a kill in the middle of an earlier exchange left only the predecessor, that comes back first.

    Args:
        folder: the folder to replace; its parent is made if need be.

    Yields:
        An empty folder beside it to write into. When the block fails, it is removed and ``folder`` is what it was.

    Raises:
        OSError: the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists() and backup_of(folder).is_dir():
            backup_of(folder).rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        exchange(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def backup_of(folder: Path) -> Path:
    """Return the path of the old folder during the exchange."""
    return folder.with_name(f".{folder.name}.previous")


def left_behind(folder: Path) -> str | None:
    """Say where an interrupted exchange left the predecessor of a folder that is not there; None where it left none."""
    backup = backup_of(folder)
    if folder.exists() or not backup.is_dir():
        return None
    return f"no such folder, but an interrupted export left its predecessor at {backup}: rename it back"


def what_is_there(folder: Path) -> str:
    """Say what lies where a folder of other content was looked for, in words for an error message."""
    if folder.is_dir():
        return "a folder with " + (shorten(sorted(entry.name for entry in folder.iterdir()), 8) or "nothing in it")
    return left_behind(folder) or ("a file" if folder.exists() else "no such folder")


def exchange(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; at every moment one of the two, or the backup, is whole on the disk."""
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


def refuse_foreign(folder: Path, marks: Sequence[str], what: str, remedy: str) -> None:
    """Refuse to replace a folder that was not written by the same stage; an empty one is nobody's.

    Args:
        folder: the folder that is to be replaced.
        marks: files below it that say whose it is, the one that is named to the user last.
        what: what is to be put there, with its article.
        remedy: what to do.

    Raises:
        UserError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((folder / name).is_file() for name in marks):
        raise UserError(
            f"{folder} holds something else and is not replaced by {what}.",
            looked_for=f"a new or empty folder, or an earlier one, with its {marks[-1]}",
            found="other files" if folder.is_dir() else "a file",
            remedy=remedy,
        )
