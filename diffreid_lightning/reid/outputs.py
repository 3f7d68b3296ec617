"""What a Re-ID network hands to its losses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ReIDOutputs(NamedTuple):
    """The three stages of one batch, so that a loss can pick its own and any loss can replace another.

    Attributes:
        features: (B, D) pooled features before the batch-norm neck.
        embeddings: (B, D) the same after the neck.
        logits: (B, C) scores of the training identities; the classifier's, from the embeddings.
    """

    features: Tensor
    embeddings: Tensor
    logits: Tensor
