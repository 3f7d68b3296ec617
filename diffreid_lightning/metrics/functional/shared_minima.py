"""Sum the elementwise minima of pairs of sparse rows, for Jaccard distances.

Most pairs of rows share no column. Each row visits only the rows listed under its columns, so that pairs without
overlap cost no computation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

_PAIRS_AT_ONCE = 1 << 20


class SharedMinima:
    """Overlaps of the rows of one matrix with those of another, computed for some rows at a time.

    Different threads may compute different rows. Sums run over the columns in ascending order, in float64, so they are
    symmetric and do not depend on which rows are computed together.

    Args:
        left: (L, C) float32, sorted indices.
        right: (R, C) float32; None is ``left``, whose rows then visit later rows only.
    """

    def __init__(self, left: sparse.csr_array, right: sparse.csr_array | None = None) -> None:
        self._left = left
        self._listed = (left if right is None else right).tocsc()
        self._begins = 1 + _places_by_column(left) if right is None else self._listed.indptr[left.indices]
        self._lengths = self._listed.indptr[left.indices + 1] - self._begins
        self._visits = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])[left.indptr]

    def runs(self, workers: int) -> Iterator[tuple[int, int]]:
        """Yield runs of rows (start, stop), small enough for the memory of all workers together.

        Args:
            workers: number of runs computed at once.
        """
        pairs = max(_PAIRS_AT_ONCE // workers, 1 << 16)
        columns = self._listed.shape[0]
        start, rows = 0, self._left.shape[0]
        while start < rows:
            stop = int(np.searchsorted(self._visits, self._visits[start] + pairs, side="right")) - 1
            stop = max(min(stop, start + pairs // columns, rows), start + 1)
            yield start, stop
            start = stop

    def sums(self, start: int, stop: int, first: int = 0) -> np.ndarray:
        """Compute the overlaps of rows of the left matrix with the rows of the right one from ``first`` on.

        Args:
            start: first row of the left matrix.
            stop: row after the last.
            first: first row of the right matrix; earlier ones must not overlap with the given rows.

        Returns:
            (stop - start, R - first) float64.
        """
        columns = self._listed.shape[0] - first
        entries = slice(self._left.indptr[start], self._left.indptr[stop])
        length = self._lengths[entries]
        row = np.repeat(np.arange(stop - start), np.diff(self._left.indptr[start : stop + 1]))
        offset = self._begins[entries] - (np.cumsum(length) - length)
        place = np.arange(length.sum()) + np.repeat(offset, length)
        minima = np.minimum(np.repeat(self._left.data[entries], length), self._listed.data[place])
        target = np.repeat(row * columns - first, length) + self._listed.indices[place]
        return np.bincount(target, minima, minlength=(stop - start) * columns).reshape(stop - start, columns)


def _places_by_column(matrix: sparse.csr_array) -> np.ndarray:
    """Return the position in column order of each entry in row order, (M,)."""
    numbered = sparse.csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
    places = np.empty(matrix.nnz, dtype=np.int64)
    places[numbered.tocsc().data] = np.arange(matrix.nnz)
    return places
