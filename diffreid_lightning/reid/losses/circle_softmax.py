"""Compute circle loss on class logits, CircleSoftmax in fast-reid (Sun et al., CVPR 2020, arXiv 2002.10857)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss
from diffreid_lightning.reid.losses.label_smoothing import label_smoothed_cross_entropy
from diffreid_lightning.reid.outputs import ReIDOutputs


def circle_softmax(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.35,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Classify with a circular margin (equation 6 with class-level labels).

    The logit of the image's own identity becomes ``γ [1 + m − s]₊ (s − 1 + m)`` and that of another one
    ``γ [s + m]₊ (s − m)``; no gradient flows through the brackets. Softmax cross-entropy follows.

    Args:
        cosines: (B, C) cosines s between embeddings and identities; half precision is computed in float32.
        labels: (B,) identity of each row, int64 in [0, C).
        scale: γ > 0.
        margin: m in (0, 1).
        smoothing: label smoothing in [0, 1).
        weights: (B,) how much each row counts in the average, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if cosines.itemsize < 4:
        cosines = cosines.float()
    own = F.one_hot(labels, cosines.shape[1]).bool()
    pull = (1 + margin - cosines).clamp(min=0).detach() * (cosines - 1 + margin)
    push = (cosines + margin).clamp(min=0).detach() * (cosines - margin)
    logits = scale * torch.where(own, pull, push)
    return label_smoothed_cross_entropy(logits, labels, smoothing=smoothing, weights=weights)


class CircleSoftmax(ReIDLoss):
    """:func:`circle_softmax` of cosine logits.

    Args:
        scale: γ, > 0.
        margin: m, above 0 and below 1.
        smoothing: probability mass spread over all identities, in [0, 1).
        weight: factor of this loss in the training objective, >= 0.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "circle_softmax"
    scope = "part"
    needs_logits = True
    needs_cosines = True

    def __init__(self, scale: float = 64.0, margin: float = 0.35, smoothing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_range("CircleSoftmax.scale", scale, 0, above=True)
        check_range("CircleSoftmax.margin", margin, 0, 1, above=True, below=True)
        check_range("CircleSoftmax.smoothing", smoothing, 0, 1, below=True)
        self.scale = scale
        self.margin = margin
        self.smoothing = smoothing

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Classify ``outputs.logits``, which are cosines; see :class:`ReIDLoss`."""
        assert outputs.logits is not None
        return circle_softmax(
            outputs.logits,
            labels,
            scale=self.scale,
            margin=self.margin,
            smoothing=self.smoothing,
            weights=outputs.weights,
        )
