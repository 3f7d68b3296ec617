"""Outputs of a Re-ID network for its losses and its evaluation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ReIDOutputs(NamedTuple):
    """The three stages of one batch, so that a loss can pick its own and any loss can replace another.

    Attributes:
        features: (B, D) pooled features before the batch-norm neck.
        embeddings: (B, D) the same after the neck.
        logits: (B, C) scores of the training identities; the classifier's, from the embeddings. None where no loss
            needs them.
        weights: (B,) how much each image counts, >= 0; None when all count alike.
    """

    features: Tensor
    embeddings: Tensor
    logits: Tensor | None = None
    weights: Tensor | None = None


class FeatureBatch(NamedTuple):
    """The features of a batch of images, with what tells the images apart; B is the batch size.

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
