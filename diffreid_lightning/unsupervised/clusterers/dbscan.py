"""DBSCAN on a sparse graph of neighbors.

Ester et al., "A Density-Based Algorithm for Discovering Clusters in Large Spatial Databases with Noise", KDD 1996. Its
clusters are the connected components of the core points, so that no N × N matrix is needed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.unsupervised.clusterers.base import Clusterer, number_by_first_image
from diffreid_lightning.unsupervised.distances import Distance, JaccardDistance


def density_clusters(neighbors: sparse.csr_array, min_samples: int) -> npt.NDArray[np.int64]:
    """Cluster images by the density of their neighborhoods.

    Args:
        neighbors: (N, N), symmetric; row i stores an entry, of whatever value, for each neighbor of i and for i itself.
        min_samples: images in a neighborhood, its own among them, that make an image a core point; at least 1.

    Returns:
        (N,) labels 0 .. C - 1, numbered by the first image of each cluster; -1 for images without a core point among
        their neighbors. Up to the numbering these are the labels of ``sklearn.cluster.DBSCAN``: an image at the border
        of several clusters belongs to the one with the first core point.
    """
    images = neighbors.shape[0]
    sizes = np.diff(neighbors.indptr)
    cores = np.flatnonzero(sizes >= min_samples)
    edges = sparse.csr_array(
        (np.ones(neighbors.nnz, dtype=np.int8), neighbors.indices, neighbors.indptr), (images,) * 2
    )
    _, components = connected_components(edges[cores][:, cores], directed=False)
    clusters = np.full(images, images)
    clusters[cores] = number_by_first_image(components)
    border = np.repeat(sizes < min_samples, sizes) & (clusters[neighbors.indices] < images)
    np.minimum.at(clusters, np.repeat(np.arange(images), sizes)[border], clusters[neighbors.indices[border]])
    return number_by_first_image(np.where(clusters < images, clusters, -1))


class DBSCAN(Clusterer):
    """Find clusters as dense regions; images in sparse regions stay outside of all clusters.

    The number of clusters follows from the images. A larger ``eps`` makes fewer, larger clusters.

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
        return density_clusters(self.distance.below(features, camids, self.eps), self.min_samples)
