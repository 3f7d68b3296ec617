"""Define the base classes of Re-ID losses: ReIDLoss, MetricLoss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

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
    #: what of a feature of several parts one value of the loss is about, of which the mean is taken: the whole, each
    #: part that is classified by itself, or each group of parts that images are compared by
    scope: ClassVar[Literal["whole", "part", "group"]] = "whole"
    #: whether the loss reads ``outputs.logits``; the classifier is built for such losses alone
    needs_logits: ClassVar[bool] = False
    #: whether these have to be cosines, as margins do; the classifier is built for one kind or the other
    needs_cosines: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_range(f"{type(self).__name__}.weight", weight)
        self.weight = weight

    def build(self, num_features: int, num_identities: int) -> None:
        """Size what the loss holds for each identity; called once, when the data are known.

        Args:
            num_features: D, dimension of the features and the embeddings.
            num_identities: C, labels run from 0 to C - 1.
        """

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Update state that no gradient reaches; called after each optimizer step, outside the backward pass.

        Args:
            embeddings: (N, D) float32 embeddings since the last step, of all processes and accumulated batches.
            labels: (N,) identities.
        """

    @property
    def has_update(self) -> bool:
        """Return true if the class defines :meth:`update`."""
        return type(self).update is not ReIDLoss.update

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # What is held for each identity has the checkpoint's size, which an evaluation does not know beforehand.
        for name, buffer in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:
                setattr(self, name, torch.empty_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @abstractmethod
    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            outputs: features, embeddings and logits of the batch.
            labels: (B,) identity of each image, int64 from 0.

        Returns:
            The scalar loss, without ``weight``. Where ``outputs.weights`` is given, images count by it.
        """


class MetricLoss(ReIDLoss):
    """A loss that compares the images of a batch with one another.

    Args:
        compares: ``features`` before the batch-norm neck, or ``embeddings`` after it.
        weight: factor of this loss in the training objective, >= 0.
    """

    scope = "group"

    def __init__(self, compares: Literal["features", "embeddings"] = "features", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.compares = compares

    def compared(self, outputs: ReIDOutputs) -> Tensor:
        """Return the (B, D) vectors that are compared."""
        return outputs.features if self.compares == "features" else outputs.embeddings


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average (N,) values, each counted by its weight, >= 0; 0 when all weights are 0."""
    weights = weights.to(values.dtype)
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)
