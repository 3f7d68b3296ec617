"""Base of the clusterers: features and cameras in, one label per image out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Clusterer(ABC):
    """Clustering of unlabeled images.

    A subclass keeps its arguments as attributes of the same names. It is deterministic: the same images give the same
    labels, for every number of threads.
    """

    #: Whether the labels depend on camera numbers.
    uses_cameras: bool = False

    @abstractmethod
    def __call__(self, features: Tensor, camids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Cluster images.

        Args:
            features: (N, D), any floating dtype, on any device; compared by cosine, so that their length is ignored.
            camids: (N,) camera numbers.

        Returns:
            (N,) labels 0 .. C - 1, numbered by the first image of each cluster; -1 for images outside of all clusters.

        Raises:
            UserError: features that are empty or not finite.
        """

    def advise(self, clusters: int) -> str:
        """Say what to change where the images make no cluster (0) or a single one (1)."""
        return "give other arguments to --model.clusterer"


def number_by_first_image(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Number clusters in the order of their first images.

    Args:
        labels: (N,) cluster numbers in any order, negative for images outside of all clusters.

    Returns:
        (N,) 0 .. C - 1, and -1 for images outside of all clusters.
    """
    numbered = np.full(len(labels), -1, dtype=np.int64)
    inside = np.flatnonzero(labels >= 0)
    _, first, cluster = np.unique(labels[inside], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbered[inside] = rank[cluster]
    return numbered
