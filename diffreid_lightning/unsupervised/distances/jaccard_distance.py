"""k-reciprocal Jaccard distance, the usual one of cluster-based unsupervised Re-ID."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from torch import Tensor

from diffreid_lightning.metrics.functional.jaccard import check_neighborhoods, jaccard_distances
from diffreid_lightning.unsupervised.distances.base import Distance


class JaccardDistance(Distance):
    """Apply :func:`~diffreid_lightning.metrics.functional.jaccard.jaccard_distances`.

    Two images are near if their reciprocal neighbors are mostly the same ones. Cameras are not used.

    Args:
        k1: neighbors, the image itself among them, whose reciprocal ones describe an image; 1 to 1,000. Of fewer
            images all are neighbors.
        k2: neighbors, the image itself among them, whose descriptions are averaged; 1 to 1,000, 1 averages nothing.
    """

    def __init__(self, k1: int = 30, k2: int = 6) -> None:
        check_neighborhoods(k1=k1, k2=k2)
        self.k1 = k1
        self.k2 = k2

    def pairs_within(self, features: Tensor, camids: npt.NDArray[np.int64], eps: float) -> sparse.csr_array:
        """Find all pairs within ``eps``; see the base."""
        return jaccard_distances(features, eps, k1=self.k1, k2=self.k2)
