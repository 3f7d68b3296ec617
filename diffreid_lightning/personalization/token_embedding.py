"""Embedding lookup of a text encoder that adds the identities' vectors to the frozen vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffreid_lightning.diffusion.prompt_encoding import take_rows, text_encoders
from diffreid_lightning.personalization.checkpoint import add_words, number_names
from diffreid_lightning.personalization.identity_tokens import IdentityTokens


class InjectedEmbedding(nn.Module):
    """Look words up in the frozen vocabulary, and names in the identities' vectors.

    ``weight`` is the vocabulary, so the encoder's state dict does not change; the identities are not part of it.

    Args:
        vocabulary: the encoder's embedding.
        tokens: the identities.
        encoder: index of the text encoder, 0 or 1.
        first: token id of the first name; names and their further vectors follow in order.
    """

    weight: nn.Parameter

    def __init__(self, vocabulary: nn.Module, tokens: IdentityTokens, encoder: int, first: int) -> None:
        super().__init__()
        self.weight = vocabulary.get_parameter("weight")
        self._tokens = (tokens,)  # in a tuple: its parameters belong to the training module, not to the encoder
        self._encoder = encoder
        self._first = first

    def forward(self, ids: Tensor) -> Tensor:
        """Look tokens up.

        Args:
            ids: (B, T) int64.

        Returns:
            (B, T, dim), with gradients only to the identities' vectors.
        """
        tokens = self._tokens[0]
        named = ids >= self._first
        words = nn.functional.embedding(ids.clamp(max=self._first - 1), self.weight.detach())
        # Without a name, identity 0 is looked up and discarded: under DDP every process then has a gradient for
        # every parameter.
        place = (ids - self._first).clamp(min=0)
        present, row = torch.unique(place // tokens.vectors, return_inverse=True)
        vectors = take_rows(tokens(present)[self._encoder].flatten(0, 1), row * tokens.vectors + place % tokens.vectors)
        return torch.where(named[..., None], vectors.to(words.dtype), words)


def inject(pipeline: Any, tokens: IdentityTokens, names: list[str]) -> None:
    """Add identities' names to a pipeline's tokenizers, and their vectors to its text encoders.

    Args:
        pipeline: changed in place.
        tokens: initialized identity tokens.
        names: their names, in order.

    Raises:
        UserError: a name is taken.
    """
    for number, (tokenizer, encoder) in enumerate(text_encoders(pipeline)):
        first = add_words(tokenizer, number_names(names, tokens.vectors))
        encoder.set_input_embeddings(InjectedEmbedding(encoder.get_input_embeddings(), tokens, number, first))
