"""Arrays that are computed in batches onto the disk, and go on where a killed run stopped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track

from diffreid_lightning import file_lock
from diffreid_lightning.errors import RunError
from diffreid_lightning.whole_folder import replacing_file


def reserve(file: Path) -> None:
    """Give a file that is to be mapped into memory all the room on the disk that its length asks for.

    A file with holes takes room as it is written, and writing to a map is no call that could fail: a full disk would
    end the process with a bus error.

    Raises:
        OSError: there is not so much room.
    """
    if hasattr(os, "posix_fallocate"):  # not on every system
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def new_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make a ``.npy`` file of zeros and map it into memory.

    Raises:
        OSError: the disk has no room for it.
    """
    store = np.lib.format.open_memmap(file, "w+", dtype=dtype, shape=shape)
    reserve(file)
    return store


def fill_array(
    file: Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    batch_size: int,
    compute: Callable[[int, int], npt.NDArray[np.generic]],
    description: str,
) -> None:
    """Compute an array into ``file``, batch by batch; the finished file is renamed into place.

    The batches are the same however often it is interrupted; the one in flight is done again whole. One process fills
    it at a time: another waits, and finds it filled, or goes on where a killed one stopped.

    Args:
        file: the ``.npy`` file to make.
        shape: of the whole array, N first.
        dtype: of the array.
        batch_size: rows computed at once.
        compute: takes first row and end of a batch, returns its rows.
        description: what the progress bar says.

    Raises:
        OSError: the disk refuses.
        RunError: a value that was computed is not finite; the batches before are kept.
    """
    part, mark = file.with_suffix(".part"), file.with_suffix(".done")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock.take(part)
    if lock is None:
        rank_zero_info(f"{description}: another process is doing it; waiting for {file}")
        lock = file_lock.take(part, patience=math.inf)
        assert lock is not None
    try:
        if file.exists():
            part.unlink()  # made just now, for the lock
            return
        begun = mark.exists() and part.stat().st_size > 0
        if not begun:
            mark.unlink(missing_ok=True)
        done = int(mark.read_text(encoding="utf-8")) if begun else 0
        store = np.lib.format.open_memmap(part, "r+") if begun else new_array(part, dtype, shape)
        for start in track(range(done, shape[0], batch_size), description=description):
            end = min(start + batch_size, shape[0])
            computed = compute(start, end)
            _refuse_broken(computed, start, description)
            store[start:end] = computed
            store.flush()
            with replacing_file(mark) as staged:
                staged.write_text(str(end), encoding="utf-8")
        del store
        part.replace(file)
        mark.unlink(missing_ok=True)
    finally:
        lock.release()


def _refuse_broken(computed: npt.NDArray[np.generic], start: int, description: str) -> None:
    """Refuse rows that are not finite: once kept, they would be trained on in every later run."""
    finite = np.isfinite(computed).reshape(len(computed), -1).all(axis=1)
    if not finite.all():
        raise RunError(
            f"Values that are not finite were computed ({description}).",
            found=f"{int((~finite).sum())} of {len(finite)} rows, the first is row {start + int(np.argmin(finite))}",
            remedy="look for a damaged or diverged model, or one whose values exceed half precision",
        )
