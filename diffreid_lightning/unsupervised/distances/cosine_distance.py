"""Compute cosine distances, as a baseline for Jaccard distances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.metrics.functional.checks import check_features
from diffreid_lightning.metrics.functional.near_pairs import Pairs, symmetric_matrix
from diffreid_lightning.metrics.functional.tiled_matmul import DistanceTiles, exact_products, rows_per_tile
from diffreid_lightning.metrics.functional.topk import places
from diffreid_lightning.unsupervised.distances.base import Distance

_TILE_BYTES = 128 << 20


def near_cosine_pairs(features: Tensor, eps: float) -> Iterator[Pairs]:
    """Yield the pairs of images with a cosine distance (1 - cos) of at most ``eps``, in order.

    Args:
        features: (N, D) float32, contiguous.
        eps: largest distance.

    Raises:
        UserError: a feature is not finite.
    """
    with exact_products():
        tiles = DistanceTiles(features, features, "cosine")
        images = torch.arange(len(features), device=features.device)
        for start, tile in tiles.tiles(images, rows_per_tile(len(features), tiles.stride, _TILE_BYTES)):
            distances = tile.numpy()[:, : len(features)]
            distances += 1
            row, column = places(distances <= np.float32(eps))
            later = column > start + row
            row, column = row[later], column[later]
            near = np.maximum(distances[row, column], 0)  # rounding makes some negative
            yield (start + row).astype(np.int32), column.astype(np.int32), near


class CosineDistance(Distance):
    """Compute 1 - cos."""

    farthest: ClassVar[int] = 2  # of opposite features

    def pairs_within(self, features: Tensor, camids: npt.NDArray[np.int64], eps: float) -> sparse.csr_array:
        """Find all pairs within ``eps``; see the base."""
        self.check_eps(eps)
        (features,) = check_features(features=features)
        return symmetric_matrix(len(features), near_cosine_pairs(features, eps))
