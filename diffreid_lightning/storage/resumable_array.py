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

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.atomic import replacing_file
from diffreid_lightning.storage.json_notes import DamagedFile, damaged


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


def map_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...], *, remedy: str) -> np.memmap[Any, Any]:
    """Map a ``.npy`` file into memory without reading it.

    Args:
        file: the file.
        dtype: what its numbers are.
        shape: its shape; None stands for any length.
        remedy: what to do where it is damaged.

    Raises:
        DamagedFile: it is not there, cut off, or of another type or shape.
    """
    wanted = f"{np.dtype(dtype)} of shape ({', '.join('any' if size is None else str(size) for size in shape)})"
    found = not_a_file(file)
    if found is None:
        try:
            array = np.lib.format.open_memmap(file, "r")
        except Exception as error:  # whatever NumPy's parser of headers raises: it evaluates them as Python
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            alike = array.ndim == len(shape) and all(a in (b, None) for a, b in zip(shape, array.shape, strict=True))
            if array.dtype == dtype and alike:
                return array
            found = f"{array.dtype} of shape {array.shape}"
    raise damaged(file, found, looked_for=wanted, remedy=remedy)


def holds_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> bool:
    """Tell whether a ``.npy`` file was computed earlier and can be used; :func:`fill_array` makes a damaged one again.

    Args:
        file: the file.
        dtype: what its numbers are to be.
        shape: its shape; None stands for any length.

    Raises:
        UserError: there is a folder, or another thing that is no file, in its place.
    """
    if not os.path.lexists(file):
        return False
    if not_a_file(file) is not None:
        raise UserError(
            f"A file is to be made where something else lies: {file}", found=not_a_file(file), remedy="move it away"
        )
    try:
        map_array(file, dtype, shape, remedy="")
    except DamagedFile:
        return False
    return True


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
        UserError: a folder lies in the place of one of its files.
        OSError: the disk refuses.
        RunError: a value that was computed is not finite; the batches before are kept.
    """
    part, mark = file.with_suffix(".part"), file.with_suffix(".done")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = locks.take(part)
    if lock is None:
        rank_zero_info(f"{description}: another process is doing it; waiting for {file}")
        lock = locks.take(part, patience=math.inf)
        assert lock is not None
    try:
        if holds_array(file, dtype, shape):
            part.unlink()  # made just now, for the lock
            return
        if file.exists():
            rank_zero_info(f"{file} is damaged: it is made again")
        done = _rows_done(part, mark, dtype, shape)
        store = np.lib.format.open_memmap(part, "r+") if done else new_array(part, dtype, shape)
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


def _rows_done(part: Path, mark: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """Read how far a killed run came; 0 where what it left cannot be gone on with."""
    try:
        done = int(mark.read_text(encoding="utf-8"))
        map_array(part, dtype, shape, remedy="")
    except (OSError, ValueError):  # DamagedFile is one
        done = 0
    if 0 < done <= shape[0]:
        return done
    if mark.is_dir():
        raise UserError(f"A file is to be made where a folder lies: {mark}", remedy="move it away")
    mark.unlink(missing_ok=True)
    return 0
