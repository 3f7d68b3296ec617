"""Build sparse symmetric matrices of image pairs within a distance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from diffreid_lightning.errors import RunError

_MOST_PAIRS = 1 << 25

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows (P,) int32, columns (P,) int32 (each greater than its row), and distances (P,) float32."""


def symmetric_matrix(images: int, parts: Iterable[Pairs]) -> sparse.csr_array:
    """Build a matrix with the pairs in both directions and the diagonal.

    Args:
        images: N.
        parts: pairs in ascending order of rows and columns, within and across parts.

    Returns:
        (N, N) float32, sorted indices. Distances of 0 are stored: the diagonal, and identical images.

    Raises:
        RunError: the matrix would take more than a GiB.
    """
    kept, count = [], 0
    for part in parts:
        count += len(part[0])
        if count > _MOST_PAIRS:
            raise RunError(
                f"More than {_MOST_PAIRS:,} pairs of the {images:,} images are near each other.",
                looked_for="fewer pairs within the distance",
                remedy="choose a smaller distance (eps); if it worked before, the features have collapsed: lower the "
                "learning rate.",
            )
        kept.append(part)
    row, column, distance = (np.concatenate(values) for values in zip(*kept, strict=True))
    image = np.arange(images, dtype=np.int32)
    data = np.concatenate([distance, distance, np.zeros(images, dtype=np.float32)])
    places = np.concatenate([row, column, image]), np.concatenate([column, row, image])
    matrix = sparse.coo_array((data, places), shape=(images, images)).tocsr()  # adding matrices would drop zeros
    matrix.sort_indices()
    return matrix
