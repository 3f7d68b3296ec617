"""Triplet loss with batch-hard mining (Hermans et al., 2017, arXiv 1703.07737)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss, weighted_mean
from diffreid_lightning.reid.outputs import ReIDOutputs


def batch_hard_triplet(
    features: Tensor, labels: Tensor, *, margin: float | None = 0.3, weights: Tensor | None = None
) -> Tensor:
    """Compare each anchor's farthest positive with its nearest negative (equation 5 of the paper).

    The loss is the mean of ``max(d_p − d_n + margin, 0)`` over the anchors, with Euclidean distances, or of
    ``ln(1 + exp(d_p − d_n))`` with the soft margin. An anchor without another image of its identity in the batch, or
    without an image of another one, has no triplet and is left out; a batch without any triplet gives 0, with zero
    gradients.

    Args:
        features: (B, D) features; half precision is computed in float32.
        labels: (B,) identity of each row.
        margin: how much nearer the positive has to be, > 0; None for the soft margin.
        weights: (B,) how much each anchor counts in the mean, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if features.itemsize < 4:
        features = features.float()
    # Differences are formed pair by pair: |a|² + |b|² − 2ab loses near neighbors to rounding, and its root has no
    # gradient at 0, where two copies of one image lie.
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")

    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchors = positive.any(dim=1) & ~same.all(dim=1)
    farthest_positive = distances.masked_fill(~positive, 0.0).amax(dim=1)[anchors]
    nearest_negative = distances.masked_fill(same, torch.inf).amin(dim=1)[anchors]

    gaps = farthest_positive - nearest_negative
    losses = F.softplus(gaps) if margin is None else F.relu(gaps + margin)
    if weights is not None:
        return weighted_mean(losses, weights[anchors])
    return losses.sum() / anchors.sum().clamp(min=1)


class BatchHardTriplet(ReIDLoss):
    """:func:`batch_hard_triplet` of the features before the neck.

    Args:
        margin: how much nearer the positive has to be, > 0; None for the soft margin.
        weight: factor of this loss in the training objective, >= 0.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "triplet"

    def __init__(self, margin: float | None = 0.3, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_range("BatchHardTriplet.margin", margin, 0, above=True)
        self.margin = margin

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compare ``outputs.features``; see :class:`ReIDLoss`."""
        return batch_hard_triplet(outputs.features, labels, margin=self.margin, weights=outputs.weights)
