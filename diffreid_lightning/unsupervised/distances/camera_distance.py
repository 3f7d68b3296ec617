"""Camera-aware k-reciprocal Jaccard distance (CA-Jaccard), which ``metrics/functional/jaccard.py`` computes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import sparse
from torch import Tensor

from diffreid_lightning.metrics.functional.jaccard import camera_jaccard_distances, check_neighborhoods
from diffreid_lightning.unsupervised.distances.base import Distance


class CameraJaccardDistance(Distance):
    """Apply :func:`~diffreid_lightning.metrics.functional.jaccard.camera_jaccard_distances`.

    Neighbors are sought within the image's camera and across the others separately (Chen et al., "CA-Jaccard", CVPR
    2024). Images of one or of unknown cameras are refused: :class:`JaccardDistance` is the distance for them.

    Args:
        k1_within: neighbors of the same camera, besides the image itself, that may describe an image; 1 to 1,000.
        k1_across: neighbors of other cameras that may describe an image, 1 to 1,000; one more is taken, as in the
            authors' implementation.
        k2_within: neighbors of the same camera, the image itself among them, whose descriptions are averaged; 1 to
            1,000.
        k2_across: neighbors of other cameras whose descriptions are averaged, 1 to 1,000.
    """

    uses_cameras: ClassVar[bool] = True

    def __init__(self, k1_within: int = 5, k1_across: int = 20, k2_within: int = 2, k2_across: int = 4) -> None:
        check_neighborhoods(k1_within=k1_within, k1_across=k1_across, k2_within=k2_within, k2_across=k2_across)
        self.k1_within = k1_within
        self.k1_across = k1_across
        self.k2_within = k2_within
        self.k2_across = k2_across

    def pairs_within(self, features: Tensor, camids: npt.NDArray[np.int64], eps: float) -> sparse.csr_array:
        """Find all pairs within ``eps``; see the base.

        Raises:
            UserError: features that are empty or not finite, or cameras that are not known.
            RunError: nearly all images are near each other, too many pairs to be stored.
        """
        return camera_jaccard_distances(
            features,
            camids,
            eps,
            k1_within=self.k1_within,
            k1_across=self.k1_across,
            k2_within=self.k2_within,
            k2_across=self.k2_across,
        )
