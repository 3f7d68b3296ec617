"""k-means on unit vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.errors import UserError, check_range, check_seed
from diffreid_lightning.metrics.functional.checks import check_features
from diffreid_lightning.metrics.functional.tiled_matmul import norms
from diffreid_lightning.unsupervised.clusterers.base import Clusterer, number_by_first_image


class KMeans(Clusterer):
    """Divide the images into a given number of clusters, by scikit-learn's k-means on features of length 1.

    Every image belongs to a cluster. Cameras are not used. It runs on one core, since sums in another order could give
    other labels from run to run: minutes for ten thousand images, where :class:`DBSCAN` takes seconds.

    Args:
        clusters: number of clusters, at least 1 and at most the number of images; identical images may leave fewer.
        seed: of the initial centers.
    """

    def __init__(self, clusters: int, seed: int = 0) -> None:
        check_range("clusters", clusters, 1)
        check_seed("seed", seed)
        self.clusters = clusters
        self.seed = seed

    def __call__(self, features: Tensor, camids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Cluster images; see the base.

        Raises:
            UserError: features that are empty or not finite, or more clusters than images.
        """
        # Imported here: the command line imports this file, and scikit-learn's clusterers take a second.
        from sklearn import cluster
        from threadpoolctl import threadpool_limits

        (features,) = check_features(features=features)
        norms("features", features)
        if self.clusters > len(features):
            raise UserError(
                f"{len(features):,} images cannot make {self.clusters:,} clusters.",
                looked_for=f"at least {self.clusters:,} images",
                found=f"{len(features):,}",
                remedy="give KMeans fewer clusters, about as many as there are people.",
            )
        unit = torch.nn.functional.normalize(features, dim=1).cpu().numpy()
        with threadpool_limits(1):
            found = cluster.KMeans(self.clusters, n_init=1, random_state=self.seed).fit(unit)
        return number_by_first_image(found.labels_)

    def advise(self, clusters: int) -> str:
        """Name the number of clusters; see the base."""
        return f"raise --model.clusterer.clusters ({self.clusters})"
