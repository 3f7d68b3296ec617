"""Circle loss between the images of a batch (Sun et al., CVPR 2020, arXiv 2002.10857)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.backbones.heads import cosine_matrix
from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import MetricLoss
from diffreid_lightning.reid.losses.pairs import mean_over_anchors, pair_masks
from diffreid_lightning.reid.outputs import ReIDOutputs


def circle_loss(
    features: Tensor, labels: Tensor, *, scale: float = 128.0, margin: float = 0.25, weights: Tensor | None = None
) -> Tensor:
    """Weigh each cosine of a pair by its distance from its optimum (equation 6 with pairwise labels).

    An anchor's loss is ``ln(1 + Σ exp(γ α_n (s_n − m)) · Σ exp(−γ α_p (s_p − 1 + m)))`` over its positives p and
    negatives n, with cosines s, ``α_p = [1 + m − s_p]₊`` and ``α_n = [s_n + m]₊``, through which no gradient flows.
    Anchors without a positive or a negative are left out; a batch without any anchor gives 0, with zero gradients.

    Args:
        features: (B, D) features of any length; half precision is computed in float32.
        labels: (B,) identity of each row.
        scale: γ > 0; the paper's for Re-ID.
        margin: m in (0, 1); the paper's for Re-ID.
        weights: (B,) how much each anchor counts in the mean, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    positive, negative, anchors = pair_masks(labels)
    # Rows without a pair would be a logarithm of nothing.
    cosines, positive, negative = cosine_matrix(features, features)[anchors], positive[anchors], negative[anchors]
    pull = -scale * (1 + margin - cosines).clamp(min=0).detach() * (cosines - 1 + margin)
    push = scale * (cosines + margin).clamp(min=0).detach() * (cosines - margin)
    pull, push = pull.masked_fill(~positive, -torch.inf), push.masked_fill(~negative, -torch.inf)
    losses = F.softplus(pull.logsumexp(dim=1) + push.logsumexp(dim=1))
    return mean_over_anchors(losses, anchors, weights)


class CircleLoss(MetricLoss):
    """:func:`circle_loss` of the features before the neck, or the embeddings after it.

    Args:
        scale: γ, > 0.
        margin: m, above 0 and below 1.
        weight: factor of this loss in the training objective, >= 0.
        compares: ``features`` or ``embeddings``.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "circle"

    def __init__(
        self,
        scale: float = 128.0,
        margin: float = 0.25,
        weight: float = 1.0,
        compares: Literal["features", "embeddings"] = "features",
    ) -> None:
        super().__init__(compares, weight)
        check_range("CircleLoss.scale", scale, 0, above=True)
        check_range("CircleLoss.margin", margin, 0, 1, above=True, below=True)
        self.scale = scale
        self.margin = margin

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compare the images of the batch; see :class:`~.base.ReIDLoss`."""
        return circle_loss(
            self.compared(outputs), labels, scale=self.scale, margin=self.margin, weights=outputs.weights
        )
