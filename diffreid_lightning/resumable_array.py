"""Arrays that are computed in batches onto the disk, and go on where a killed run stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track


def fill_array(
    file: Path,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    batch_size: int,
    compute: Callable[[int, int], npt.NDArray[np.generic]],
    description: str,
) -> None:
    """Compute an array into ``file``, batch by batch; the finished file is renamed into place.

    The batches are the same however often it is interrupted; the one in flight is done again whole.

    Args:
        file: the ``.npy`` file to make.
        shape: of the whole array, N first.
        dtype: of the array.
        batch_size: rows computed at once.
        compute: takes first row and end of a batch, returns its rows.
        description: what the progress bar says.

    Raises:
        OSError: the disk refuses.
    """
    part, mark = file.with_suffix(".part"), file.with_suffix(".done")
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = part.exists() and mark.exists()
    done = int(mark.read_text(encoding="utf-8")) if begun else 0
    store = np.lib.format.open_memmap(part, "r+" if begun else "w+", dtype=dtype, shape=shape)
    for start in track(range(done, shape[0], batch_size), description=description):
        end = min(start + batch_size, shape[0])
        store[start:end] = compute(start, end)
        store.flush()
        written = mark.with_suffix(".mark")
        written.write_text(str(end), encoding="utf-8")
        written.replace(mark)
    del store
    part.replace(file)
    mark.unlink(missing_ok=True)
