"""Margins on the angle (ArcFace, Deng et al., CVPR 2019) and on the cosine (CosFace, Wang et al., CVPR 2018)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss
from diffreid_lightning.reid.losses.label_smoothing import label_smoothed_cross_entropy
from diffreid_lightning.reid.outputs import ReIDOutputs


def angular_margin_softmax(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.5,
    cosine_margin: float = 0.0,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Classify with margins on the angle θ between an image and its identity (ArcFace, equation 4).

    The logit of the own identity becomes ``s (cos(θ + m₂) − m₃)``, that of another one stays ``s cos θ``; softmax
    cross-entropy follows. Beyond θ + m₂ = π, where the cosine would rise again, it goes on falling with θ, as
    ``cos θ − 1 + cos m₂``, which meets it there.

    Args:
        cosines: (B, C) cosines between embeddings and identities; half precision is computed in float32.
        labels: (B,) identity of each row, int64 in [0, C).
        scale: s > 0.
        margin: m₂ in radians, in [0, π/2).
        cosine_margin: m₃ in [0, 1).
        smoothing: label smoothing in [0, 1).
        weights: (B,) how much each row counts in the average, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if cosines.itemsize < 4:
        cosines = cosines.float()
    # Rounding takes cosines beyond 1, and the root has no gradient at 0.
    sines = (1 - cosines * cosines).clamp(min=torch.finfo(cosines.dtype).eps).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    turned = torch.where(cosines > -math.cos(margin), turned, cosines - 1 + math.cos(margin))
    own = F.one_hot(labels, cosines.shape[1]).bool()
    logits = scale * torch.where(own, turned - cosine_margin, cosines)
    return label_smoothed_cross_entropy(logits, labels, smoothing=smoothing, weights=weights)


class AngularMargin(ReIDLoss):
    """:func:`angular_margin_softmax` of cosine logits: ArcFace by default, CosFace with ``margin`` 0.

    Args:
        scale: s, > 0.
        margin: m₂, added to the angle, in radians, at least 0 and below π/2.
        cosine_margin: m₃, subtracted from the cosine, at least 0 and below 1; CosFace's is 0.35.
        smoothing: probability mass spread over all identities, in [0, 1).
        weight: factor of this loss in the training objective, >= 0.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "angular_margin"
    scope = "part"
    needs_logits = True
    needs_cosines = True

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.5,
        cosine_margin: float = 0.0,
        smoothing: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_range("AngularMargin.scale", scale, 0, above=True)
        check_range("AngularMargin.margin", margin, 0, math.pi / 2, below=True)
        check_range("AngularMargin.cosine_margin", cosine_margin, 0, 1, below=True)
        check_range("AngularMargin.smoothing", smoothing, 0, 1, below=True)
        self.scale = scale
        self.margin = margin
        self.cosine_margin = cosine_margin
        self.smoothing = smoothing

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Classify ``outputs.logits``, which are cosines; see :class:`ReIDLoss`."""
        assert outputs.logits is not None
        return angular_margin_softmax(
            outputs.logits,
            labels,
            scale=self.scale,
            margin=self.margin,
            cosine_margin=self.cosine_margin,
            smoothing=self.smoothing,
            weights=outputs.weights,
        )
