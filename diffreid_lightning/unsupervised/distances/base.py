"""Base of the distances between images: the pairs within a limit, as a sparse matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import check_range


class Distance(ABC):
    """Distance between the images of one set, computed up to a limit only.

    A subclass keeps its arguments as attributes of the same names. It is deterministic: the same images give the same
    matrix, for every number of threads.
    """

    #: Whether camera numbers are used; otherwise :meth:`pairs_within` ignores them.
    uses_cameras: ClassVar[bool] = False
    #: Largest distance of two images; a limit has to be less.
    farthest: ClassVar[int] = 1

    def check_eps(self, eps: float) -> None:
        """Refuse limits outside of 0 to :attr:`farthest`, both excluded.

        Raises:
            UserError: ``eps`` is outside its range.
        """
        check_range("eps", eps, 0, self.farthest, above=True, below=True)

    @abstractmethod
    def pairs_within(self, features: Tensor, camids: npt.NDArray[np.int64], eps: float) -> sparse.csr_array:
        """Find all pairs of images with a distance of at most ``eps``.

        Args:
            features: (N, D), any floating dtype, on any device; compared by cosine.
            camids: (N,) camera numbers.
            eps: the limit.

        Returns:
            (N, N) float32 distances, symmetric, sorted indices. Every pair is stored in both directions, and the
            diagonal is stored. Distances of 0 are explicit zeros: what is not stored is farther than ``eps``.

        Raises:
            UserError: features that are empty or not finite, or unusable camera numbers.
            RunError: nearly all images are near each other, too many pairs to be stored.
        """
