"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Fill a new folder, then put it in the place of ``folder``; under several processes use it on one of them.

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
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        exchange(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def backup_of(folder: Path) -> Path:
    """Where the predecessor lies for the moment of the exchange."""
    return folder.with_name(f".{folder.name}.previous")


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
