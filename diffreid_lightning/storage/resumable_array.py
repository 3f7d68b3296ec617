"""Arrays on disk that are computed in batches and resume after a kill."""

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
from diffreid_lightning.paths import make_folder, not_a_file
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import DamagedFile, damaged_error


def reserve(file: Path) -> None:
    """Allocate the full length of a file on disk before it is memory-mapped.

    With a sparse file, a full disk would end the process with a bus error when the map is written to.

    Raises:
        OSError: the disk is too small.
    """
    if hasattr(os, "posix_fallocate"):  # not on every system
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def new_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Create a memory-mapped ``.npy`` file of zeros.

    Raises:
        OSError: the disk is too small.
    """
    store = np.lib.format.open_memmap(file, "w+", dtype=dtype, shape=shape)
    reserve(file)
    return store


def map_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...], *, remedy: str) -> np.memmap[Any, Any]:
    """Memory-map a ``.npy`` file without reading it.

    Args:
        file: the file.
        dtype: its expected type.
        shape: its expected shape; None stands for any length.
        remedy: what to do if it is damaged.

    Raises:
        DamagedFile: the file is missing, truncated, or of another type or shape.
    """
    wanted = f"{np.dtype(dtype)} of shape ({', '.join('any' if size is None else str(size) for size in shape)})"
    found = not_a_file(file)
    if found is None:
        try:
            array = np.lib.format.open_memmap(file, "r")
        except Exception as error:  # NumPy evaluates headers as Python, which raises any type
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            alike = array.ndim == len(shape) and all(a in (b, None) for a, b in zip(shape, array.shape, strict=True))
            if array.dtype == dtype and alike:
                return array
            found = f"{array.dtype} of shape {array.shape}"
    raise damaged_error(file, found, looked_for=wanted, remedy=remedy)


def holds_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> bool:
    """Return true if a ``.npy`` file exists and is sound; :func:`fill_array` recomputes a damaged one.

    Args:
        file: the file.
        dtype: its expected type.
        shape: its expected shape; None stands for any length.

    Raises:
        UserError: the path is a folder or anything else but a file.
    """
    if not os.path.lexists(file):
        return False
    if not_a_file(file) is not None:
        raise UserError(f"A file cannot be created at {file}", found=not_a_file(file), remedy="move this path away")
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
    """Compute an array batch by batch into a temporary file, then rename it to ``file``.

    Batches do not depend on interruptions; an interrupted batch is repeated. One process computes at a time: others
    wait, then use the result or resume after a killed process.

    Args:
        file: the ``.npy`` file to create.
        shape: of the whole array, N first.
        dtype: of the array.
        batch_size: rows computed at once.
        compute: takes the first row and the end of a batch, returns its rows.
        description: text of the progress bar.

    Raises:
        UserError: there can be no such folder, or a folder is in the place of one of the files.
        OSError: the disk failed.
        RunError: a computed value is not finite; earlier batches are kept.
    """
    part, mark = file.with_suffix(".part"), file.with_suffix(".done")
    make_folder(file.parent)
    lock = locks.take(part)
    if lock is None:
        rank_zero_info(f"{description}: another process computes it; waiting for {file}")
        lock = locks.take(part, patience=math.inf)
        assert lock is not None
    try:
        if holds_array(file, dtype, shape):
            part.unlink()  # created above for the lock
            return
        if file.exists():
            rank_zero_info(f"{file} is damaged and computed again")
        done = _count_done_rows(part, mark, dtype, shape)
        store = np.lib.format.open_memmap(part, "r+") if done else new_array(part, dtype, shape)
        for start in track(range(done, shape[0], batch_size), description=description):
            end = min(start + batch_size, shape[0])
            computed = compute(start, end)
            _check_finite(computed, start, description)
            store[start:end] = computed
            store.flush()
            with replace_file(mark) as staged:
                staged.write_text(str(end), encoding="utf-8")
        del store
        part.replace(file)
        mark.unlink(missing_ok=True)
    finally:
        lock.release()


def _check_finite(computed: npt.NDArray[np.generic], start: int, description: str) -> None:
    """Refuse non-finite rows, which every later run would train on."""
    finite = np.isfinite(computed).reshape(len(computed), -1).all(axis=1)
    if not finite.all():
        raise RunError(
            f"Values that are not finite were computed ({description}).",
            found=f"{int((~finite).sum())} of {len(finite)} rows, the first is row {start + int(np.argmin(finite))}",
            remedy="check for a damaged or diverged model, or values that exceed half precision",
        )


def _count_done_rows(part: Path, mark: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """Return the number of rows of a killed run; 0 if it cannot be resumed."""
    try:
        done = int(mark.read_text(encoding="utf-8"))
        map_array(part, dtype, shape, remedy="")
    except (OSError, ValueError):  # DamagedFile is one
        done = 0
    if 0 < done <= shape[0]:
        return done
    if mark.is_dir():
        raise UserError(f"A file cannot be created at {mark}", found="a folder", remedy="move this path away")
    mark.unlink(missing_ok=True)
    return 0
