"""Cross-entropy with label smoothing (Szegedy et al., CVPR 2016)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss, weighted_mean
from diffreid_lightning.reid.outputs import ReIDOutputs


def label_smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.1, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy against ``(1 − ε) · one-hot + ε / C``, averaged over the batch.

    This is the target of Luo et al. (CVPRW 2019, equation 2), and torch's own: the true class keeps ``1 − ε + ε / C``.

    Args:
        logits: (B, C) scores; half precision is computed in float32.
        labels: (B,) class of each row, int64 in [0, C).
        smoothing: ε in [0, 1); 0 is plain cross-entropy.
        weights: (B,) how much each row counts in the average, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    if logits.itemsize < 4:
        logits = logits.float()
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return weighted_mean(F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none"), weights)


class LabelSmoothedCrossEntropy(ReIDLoss):
    """:func:`label_smoothed_cross_entropy` of the logits.

    Args:
        smoothing: probability mass spread over all identities, in [0, 1).
        weight: factor of this loss in the training objective, >= 0.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "cross_entropy"
    scope = "part"
    needs_logits: ClassVar[bool] = True

    def __init__(self, smoothing: float = 0.1, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_range("LabelSmoothedCrossEntropy.smoothing", smoothing, 0, 1, below=True)
        self.smoothing = smoothing

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Classify ``outputs.logits``; see :class:`ReIDLoss`."""
        assert outputs.logits is not None
        return label_smoothed_cross_entropy(outputs.logits, labels, smoothing=self.smoothing, weights=outputs.weights)
