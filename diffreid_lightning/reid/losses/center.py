"""Center loss (Wen et al., ECCV 2016)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss, weighted_mean
from diffreid_lightning.reid.outputs import ReIDOutputs


def center_loss(embeddings: Tensor, centers: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Average the squared distances of images from their identities' centers (equation 2, without its half).

    Args:
        embeddings: (B, D) embeddings; half precision is computed in float32.
        centers: (C, D) center of each identity, which no gradient reaches.
        labels: (B,) identity of each row, int64 in [0, C).
        weights: (B,) how much each row counts in the average, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if embeddings.itemsize < 4:
        embeddings = embeddings.float()
    distances = (embeddings - centers[labels].to(embeddings.dtype)).square().sum(dim=1)
    return distances.mean() if weights is None else weighted_mean(distances, weights)


def move_centers(centers: Tensor, embeddings: Tensor, labels: Tensor, rate: float) -> Tensor:
    """Move each center towards the images of its identity (equation 4 of the paper).

    A center with n images in the batch moves by ``rate · n / (1 + n)`` of its way to their mean.

    Args:
        centers: (C, D) center of each identity.
        embeddings: (N, D) embeddings of a batch.
        labels: (N,) identity of each row.
        rate: α in (0, 1].

    Returns:
        (C, D) new centers.
    """
    differences = embeddings.to(centers.dtype) - centers[labels]
    sums = torch.zeros_like(centers).index_add_(0, labels, differences)
    counts = torch.bincount(labels, minlength=len(centers))
    return centers + rate * sums / (1 + counts)[:, None]


class CenterLoss(ReIDLoss):
    """:func:`center_loss` of the embeddings, which are what the classifier takes, as in the paper.

    Luo et al. (CVPRW 2019) compute it before the batch-norm neck, so their figures with it are not this loss's.

    The centers are not parameters: :func:`move_centers` moves them after each optimizer step, with the images of all
    processes, so that neither the loss's weight nor the optimizer's settings act on them. They start at 0; beside
    clusters they do so again whenever these are found anew, since the means of clusters are of unit length.

    Args:
        rate: share α of a center's step, above 0 and up to 1.
        weight: factor of this loss in the training objective, >= 0; the default is that of Luo et al.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "center"

    centers: Tensor

    def __init__(self, rate: float = 0.5, weight: float = 5e-4) -> None:
        super().__init__(weight)
        check_range("CenterLoss.rate", rate, 0, 1, above=True)
        self.rate = rate
        self.register_buffer("centers", torch.empty(0, 0))

    def build(self, num_features: int, num_identities: int) -> None:
        """Create the centers."""
        self.centers = torch.zeros(num_identities, num_features, device=self.centers.device)

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Move the centers; see :meth:`ReIDLoss.update`."""
        self.centers = move_centers(self.centers, embeddings, labels, self.rate)

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compare ``outputs.embeddings`` with the centers; see :class:`ReIDLoss`."""
        return center_loss(outputs.embeddings, self.centers, labels, weights=outputs.weights)
