"""DBSCAN on a sparse graph of neighbors, so that no N × N matrix is needed.

Ester et al., "A Density-Based Algorithm for Discovering Clusters in Large Spatial Databases with Noise", KDD 1996.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.unsupervised.clusterers.base import Clusterer, number_by_first_image
from diffreid_lightning.unsupervised.distances import Distance, JaccardDistance


class DBSCAN(Clusterer):
    """Find clusters as dense regions; images in sparse regions stay outside of all clusters.

    The number of clusters follows from the images. A larger ``eps`` makes fewer, larger clusters. An image at the
    border of several clusters belongs to the one with the first core.

    Args:
        distance: distance between images; None is :class:`JaccardDistance` with its defaults.
        eps: distance up to which images are neighbors; for Jaccard distances between 0 and 1, both excluded.
        min_samples: neighbors, the image itself among them, that make an image the core of a cluster; at least 1.
    """

    def __init__(self, distance: Distance | None = None, eps: float = 0.6, min_samples: int = 4) -> None:
        self.distance = JaccardDistance() if distance is None else distance
        self.distance.check_eps(eps)
        check_range("min_samples", min_samples, 1)
        self.eps = eps
        self.min_samples = min_samples
        self.uses_cameras = self.distance.uses_cameras

    def __call__(self, features: Tensor, camids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Cluster images; see the base.

        Raises:
            UserError: features that are empty or not finite, or cameras that the distance cannot use.
            RunError: nearly all images are near each other, too many pairs to be stored.
        """
        # Imported here: the command line imports this file, and scikit-learn's clusterers take a second.
        from sklearn import cluster

        near = self.distance.pairs_within(features, camids, self.eps)
        # All pairs that are stored are near, explicit zeros among them: no limit is compared a second time.
        _, labels = cluster.dbscan(near, self.distance.farthest, min_samples=self.min_samples, metric="precomputed")
        return number_by_first_image(labels)

    def advise(self, clusters: int) -> str:
        """Name the limit, and the neighbors of the default distance; see the base."""
        flag = "--model.clusterer"
        change = f"lower {flag}.eps ({self.eps})"
        if not clusters:
            change = f"raise {flag}.eps ({self.eps}) or lower {flag}.min_samples ({self.min_samples})"
        if isinstance(self.distance, JaccardDistance):
            change += f"; where people have fewer than {self.distance.k1} images, lower {flag}.distance.k1 first"
        return change
