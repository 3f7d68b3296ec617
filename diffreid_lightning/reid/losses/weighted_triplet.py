"""Weighted regularization triplet loss of AGW (Ye et al., TPAMI 2022, arXiv 2001.04193, section 4.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.reid.losses.base import MetricLoss
from diffreid_lightning.reid.losses.pairs import euclidean_distances, mean_over_anchors, pair_masks
from diffreid_lightning.reid.outputs import ReIDOutputs


def weighted_triplet(features: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Compare the softmax-weighted distances of each anchor's positives and negatives (equations 9 and 10).

    The loss is the mean of ``ln(1 + exp(Σ w_p d_p − Σ w_n d_n))`` over the anchors, with Euclidean distances d, w_p the
    softmax of d over the positives and w_n the softmax of −d over the negatives: the hardest pairs count most, and no
    margin is chosen. Anchors without a positive or a negative are left out, as in :func:`~.triplet.batch_hard_triplet`.

    Args:
        features: (B, D) features; half precision is computed in float32.
        labels: (B,) identity of each row.
        weights: (B,) how much each anchor counts in the mean, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if features.itemsize < 4:
        features = features.float()
    positive, negative, anchors = pair_masks(labels)
    # Rows without a pair would be a softmax over nothing.
    distances, positive, negative = euclidean_distances(features)[anchors], positive[anchors], negative[anchors]
    by_distance = distances.masked_fill(~positive, -torch.inf).softmax(dim=1)
    by_nearness = (-distances).masked_fill(~negative, -torch.inf).softmax(dim=1)
    losses = F.softplus((by_distance * distances).sum(dim=1) - (by_nearness * distances).sum(dim=1))
    return mean_over_anchors(losses, anchors, weights)


class WeightedTriplet(MetricLoss):
    """:func:`weighted_triplet` of the features before the neck, or the embeddings after it.

    Args:
        weight: factor of this loss in the training objective, >= 0.
        compares: ``features`` or ``embeddings``.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "weighted_triplet"

    def __init__(self, weight: float = 1.0, compares: Literal["features", "embeddings"] = "features") -> None:
        super().__init__(compares, weight)

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compare the images of the batch; see :class:`~.base.ReIDLoss`."""
        return weighted_triplet(self.compared(outputs), labels, weights=outputs.weights)
