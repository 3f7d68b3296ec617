"""Hold the outputs of a Re-ID network for its losses and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class ReIDOutputs(NamedTuple):
    """Features, embeddings and logits of one batch; each loss takes what it needs.

    Attributes:
        features: (B, D) pooled features before the batch-norm neck.
        embeddings: (B, D) the same after the neck.
        logits: (B, C) scores of the training identities; the classifier's, from the embeddings. None where no loss
            needs them.
        weights: (B,) how much each image counts, >= 0; None when all count alike.
        part_logits: (B, C) scores of each part by itself, where the network's features have several
            (:attr:`Backbone.parts <diffreid_lightning.backbones.Backbone.parts>`); else empty.
    """

    features: Tensor
    embeddings: Tensor
    logits: Tensor | None = None
    weights: Tensor | None = None
    part_logits: tuple[Tensor, ...] = ()

    def in_float32(self) -> ReIDOutputs:
        """Convert all but the weights to float32."""
        logits = None if self.logits is None else self.logits.float()
        parts = tuple(part.float() for part in self.part_logits)
        return ReIDOutputs(self.features.float(), self.embeddings.float(), logits, self.weights, parts)

    def split(self, sizes: Sequence[int], logits: Sequence[Tensor] = ()) -> list[ReIDOutputs]:
        """Cut features and embeddings into pieces.

        Args:
            sizes: dimensions of the pieces, in order; their sum is D.
            logits: those of each piece; without them each has those of the whole.
        """
        if len(sizes) == 1:
            return [self]
        scores: Sequence[Tensor | None] = logits or [self.logits] * len(sizes)
        features, embeddings = (part.split(list(sizes), dim=1) for part in (self.features, self.embeddings))
        return [ReIDOutputs(*piece, self.weights) for piece in zip(features, embeddings, scores, strict=True)]


class FeatureBatch(NamedTuple):
    """Features of a batch of B images, with identity, camera and row of each.

    Attributes:
        features: (B, D) floating, as they are compared.
        labels: (B,) int64 identity numbers of the set.
        camids: (B,) int64 camera numbers of the set.
        indices: (B,) int64 rows of the set.
        is_query: (B,) bool.
    """

    features: Tensor
    labels: Tensor
    camids: Tensor
    indices: Tensor
    is_query: Tensor
