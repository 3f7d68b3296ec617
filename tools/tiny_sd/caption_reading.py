"""A second task for a text encoder that learns from nothing: to know what a caption says.

A denoiser gains little from any single word, so a text encoder that learns from its gradient alone takes long to tell
words apart. Stable Diffusion's was trained on captions before (CLIP, Radford et al., arXiv 2103.00020). Here a linear
layer reads attributes out of the encoder's states while the denoiser learns from them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

MOST_VALUES = 64


def sentence_states(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    """Average the states from the end of the text on, which have read all of it.

    Args:
        states: (B, L, D) of a causal text encoder.
        tokens: (B, L) int64, padded with the end token.
        end: number of the end token.

    Returns:
        (B, D).
    """
    past = (tokens == end).unsqueeze(-1).to(states.dtype)
    return (states * past).sum(dim=1) / past.sum(dim=1).clamp(min=1)


def reading_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy of the values, averaged over those that are known.

    Args:
        logits: (B, A, V) of A attributes with V values each.
        values: (B, A) int64 in 0..V - 1; -1 where not known.

    Returns:
        A scalar; 0 where nothing is known.
    """
    known = (values >= 0).sum().clamp(min=1)
    return cross_entropy(logits.float().flatten(0, 1), values.flatten(), ignore_index=-1, reduction="sum") / known


class CaptionReader(nn.Module):
    """Reads attributes out of a text encoder's states.

    Args:
        width: D of the states.
        attributes: how many attributes there are, each with at most 64 values.
    """

    def __init__(self, width: int, attributes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, attributes * MOST_VALUES)

    def forward(self, sentences: Tensor) -> Tensor:
        """Turn sentences, (B, D), into logits, (B, A, 64)."""
        logits: Tensor = self.layer(sentences)
        return logits.unflatten(1, (-1, MOST_VALUES))
