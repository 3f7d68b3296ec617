"""The head of a Re-ID network: batch-norm neck (Luo et al., CVPRW 2019, section 3.6) and identity classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BNNeck(nn.Module):
    """Batch normalization between the features of the triplet loss and those of the classifier.

    The triplet loss acts on the features before the neck, the classifier and the cosine distance of retrieval on those
    after it. The shift is fixed at 0, so that the classifier's hyperplanes pass through the origin.

    Args:
        num_features: dimension of the features.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = _norm(num_features)

    def resize(self, num_features: int) -> None:
        """Start anew with another dimension; the same dimension leaves everything as it is."""
        if num_features != self.norm.num_features:
            self.norm = _norm(num_features).to(self.norm.weight.device).train(self.training)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, which the triplet loss compares, to embeddings, which are classified and retrieved.

        Args:
            features: (B, ``num_features``) pooled features; in training B > 1.

        Returns:
            (B, ``num_features``) embeddings, not of unit length.
        """
        return self.norm(features)


def _norm(num_features: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(num_features)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    norm.bias.requires_grad_(False)
    return norm


class IdentityClassifier(nn.Linear):
    """Bias-free linear layer from embeddings to identities, drawn from a normal distribution of deviation 0.001.

    Args:
        num_features: dimension of the embeddings.
        num_identities: number of training identities, >= 1.
    """

    deviation = 0.001

    def __init__(self, num_features: int, num_identities: int) -> None:
        super().__init__(num_features, num_identities, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.weight, std=self.deviation)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the logits, (B, ``num_identities``), of (B, ``num_features``) embeddings."""
        return self.score(embeddings, self.weight)

    def score_parts(self, embeddings: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        """Classify the parts of the embeddings one by one, each with its own columns of the weights.

        Args:
            embeddings: (B, ``num_features``) embeddings.
            sizes: dimensions of the parts, in order; their sum is ``num_features``.

        Returns:
            Logits (B, ``num_identities``) of each part.
        """
        pieces = zip(embeddings.split(list(sizes), dim=1), self.weight.split(list(sizes), dim=1), strict=True)
        return tuple(self.score(part, weight) for part, weight in pieces)

    @staticmethod
    def score(embeddings: Tensor, weight: Tensor) -> Tensor:
        """Return the inner products of (B, D) embeddings and (C, D) weights."""
        return F.linear(embeddings, weight)


class CosineClassifier(IdentityClassifier):
    """Identity classifier whose logits are cosines, in [−1, 1], for losses with a margin; their scale is the loss's.

    The weights are drawn from a normal distribution of deviation 0.01: their length does not change a cosine, but it
    decides how far one step of the optimizer turns them.

    Args:
        num_features: dimension of the embeddings.
        num_identities: number of training identities, >= 1.
    """

    deviation = 0.01

    @staticmethod
    def score(embeddings: Tensor, weight: Tensor) -> Tensor:
        """Return the cosines between (B, D) embeddings and (C, D) weights, in float32."""
        return cosine_matrix(embeddings, weight)


def cosine_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines between all pairs of rows, (A, D) and (B, D) → (A, B); half precision gives float32.

    Autocast is switched off for it: a scale of 64 behind cosines with the eight bits of bfloat16 would leave logits in
    steps of a quarter.
    """
    if first.itemsize < 4:
        first = first.float()
    second = second.to(first.dtype)
    with torch.autocast(first.device.type, enabled=False):
        return F.linear(F.normalize(first, dim=1), F.normalize(second, dim=1))
