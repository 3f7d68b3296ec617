"""Triplet loss with batch-hard mining (Hermans et al., 2017, arXiv 1703.07737)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import MetricLoss
from diffreid_lightning.reid.losses.pairs import euclidean_distances, mean_over_anchors, pair_masks
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
    distances = euclidean_distances(features)
    positive, negative, anchors = pair_masks(labels)
    farthest_positive = distances.masked_fill(~positive, 0.0).amax(dim=1)[anchors]
    nearest_negative = distances.masked_fill(~negative, torch.inf).amin(dim=1)[anchors]

    gaps = farthest_positive - nearest_negative
    losses = F.softplus(gaps) if margin is None else F.relu(gaps + margin)
    return mean_over_anchors(losses, anchors, weights)


class BatchHardTriplet(MetricLoss):
    """:func:`batch_hard_triplet` of the features before the neck, or the embeddings after it.

    Args:
        margin: how much nearer the positive has to be, > 0; None for the soft margin.
        weight: factor of this loss in the training objective, >= 0.
        compares: ``features`` or ``embeddings``.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "triplet"

    def __init__(
        self,
        margin: float | None = 0.3,
        weight: float = 1.0,
        compares: Literal["features", "embeddings"] = "features",
    ) -> None:
        super().__init__(compares, weight)
        check_range("BatchHardTriplet.margin", margin, 0, above=True)
        self.margin = margin

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compare the images of the batch; see :class:`~.base.ReIDLoss`."""
        return batch_hard_triplet(self.compared(outputs), labels, margin=self.margin, weights=outputs.weights)
