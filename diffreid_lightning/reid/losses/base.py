"""The one form of every Re-ID loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.outputs import ReIDOutputs


class ReIDLoss(nn.Module, ABC):
    """A loss of a Re-ID network's outputs and the identities of the batch.

    Args:
        weight: factor of this loss in the training objective, >= 0. ``forward`` does not apply it: whoever sums the
            losses does, so that logged values stay comparable between runs.

    Attributes:
        name: short name, for logging.

    Raises:
        UserError: the weight is negative.
    """

    name: ClassVar[str]

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_range(f"{type(self).__name__}.weight", weight)
        self.weight = weight

    @abstractmethod
    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            outputs: features, embeddings and logits of the batch.
            labels: (B,) identity of each image, int64 from 0.

        Returns:
            The scalar loss, without ``weight``. Where ``outputs.weights`` is given, images count by it.
        """


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average (N,) values, each counted by its weight, >= 0; 0 when all weights are 0."""
    weights = weights.to(values.dtype)
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)
