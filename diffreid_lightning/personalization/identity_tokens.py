"""Make the token of each identity (the paper's IIR): free, mapped from image features, or a frozen rare word.

A token is made in two steps. The identity's name (``<market1501-0002>``) is added to the tokenizer as a new word; and
the text encoder's embedding lookup returns one or more vectors for it. These are free parameters (:class:`FreeTokens`),
the output of a trained network on image features (:class:`MappedTokens`), or those of a rare word, which are not
trained (:class:`RareWord`). The paper's Identity Information Representer maps an identity into the prompt; summaries
of it leave open how the vectors are made and how many there are.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffreid_lightning.errors import UserError, check_range, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.identity_features import IdentityFeatures
from diffreid_lightning.personalization.token_mapper import TokenMapper


@dataclass(frozen=True)
class People:
    """Identities to represent, with the text encoders' tokenizers and vocabularies.

    Args:
        rows: images of the identities.
        tokenizers: one for each text encoder, without the identities' names.
        vocabularies: for each text encoder its (rows, dim) embedding table.
    """

    rows: Manifest
    tokenizers: list[Any]
    vocabularies: list[Tensor]

    @property
    def count(self) -> int:
        """Number of identities."""
        return len(self.rows.identities()[1])

    def word(self, word: str) -> list[Tensor]:
        """Return a word's vector in each text encoder, (dim,); the mean where the word has several tokens."""
        vectors = []
        for tokenizer, vocabulary in zip(self.tokenizers, self.vocabularies, strict=True):
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if not ids:
                raise UserError(f"The tokenizer has no token for the word {word!r}.", remedy="choose another word")
            vectors.append(vocabulary[ids].float().mean(dim=0))
        return vectors

    def spreads(self) -> list[Tensor]:
        """Return the standard deviation of each embedding dimension, (dim,) for each text encoder."""
        return [vocabulary.float().std(dim=0) for vocabulary in self.vocabularies]


class IdentityTokens(nn.Module, ABC):
    """Embedding vectors of N identities: V vectors each, for every text encoder.

    A subclass builds its parameters in :meth:`_make` and returns the vectors in :meth:`forward`.

    Args:
        vectors: V, vectors of an identity; each takes one token of the prompt.
        features: image features that the vectors are made from; None for none.
    """

    def __init__(self, vectors: int, features: IdentityFeatures | None) -> None:
        super().__init__()
        check_range("tokens.vectors", vectors, 1, 64)
        self.vectors = vectors
        self.features = features
        self.count = 0

    def prepare_data(self, rows: Manifest) -> None:
        """Compute and cache the features; on one process."""
        if self.features is not None:
            self.features.encode(rows)

    def initialize(self, people: People) -> None:
        """Create the parameters for these identities."""
        self.count = people.count
        self._make(people)

    @abstractmethod
    def _make(self, people: People) -> None:
        """Create parameters and buffers."""

    @abstractmethod
    def forward(self, identities: Tensor) -> list[Tensor]:
        """Look identities up.

        Args:
            identities: (n,) int64, from 0 to N - 1.

        Returns:
            For each text encoder (n, V, dim).
        """

    @torch.no_grad()
    def table(self) -> list[Tensor]:
        """Return all vectors as they are saved: for each text encoder (N, dim), or (N, V, dim) where V is above 1."""
        device = next(iter([*self.parameters(), *self.buffers()])).device
        vectors = self(torch.arange(self.count, device=device))
        return [(each[:, 0] if self.vectors == 1 else each).float().cpu().contiguous() for each in vectors]

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups.

        Args:
            lr: learning rate of vectors.
        """
        return []

    def save(self, folder: Path) -> None:
        """Write the network that makes vectors of further identities, if there is one."""


class FreeTokens(IdentityTokens):
    """A free trained embedding for each identity (Textual Inversion, Gal et al., arXiv 2208.01618, for many at once).

    It is initialized to a word's embedding plus a small offset. The offset's direction is random, or a projection of
    the mean feature of the identity's images, so that people who look alike start close together.

    Args:
        vectors: vectors of an identity.
        word: word whose embedding initializes identities.
        features: image features that give the direction; None draws it at random.
        spread: size of the offset, in standard deviations of the vocabulary.
    """

    rows: nn.ParameterList

    def __init__(
        self, vectors: int = 1, word: str = "person", features: IdentityFeatures | None = None, spread: float = 0.1
    ) -> None:
        super().__init__(vectors, features)
        check_range("tokens.spread", spread, 0, 100)
        self.word = word
        self.spread = spread
        self.rows = nn.ParameterList()

    def _make(self, people: People) -> None:
        source = torch.Generator().manual_seed(0)
        features = None if self.features is None else standardize(self.features.of_identities(people.rows))
        self.rows = nn.ParameterList()
        for word, spread in zip(people.word(self.word), people.spreads(), strict=True):
            width = self.vectors * len(word)
            if features is None:
                directions = torch.randn(self.count, width, generator=source)
            else:
                projection = torch.randn(features.shape[1], width, generator=source)
                directions = features @ projection / features.shape[1] ** 0.5
            start = word + self.spread * spread * directions.view(self.count, self.vectors, -1)
            self.rows.append(nn.Parameter(start.to(word.device)))

    def forward(self, identities: Tensor) -> list[Tensor]:
        """Look rows up; see the base class."""
        found = [nn.functional.embedding(identities, table.flatten(1)) for table in self.rows]
        return [each.unflatten(1, (self.vectors, -1)) for each in found]

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the rows, each updated by its own step count (:class:`~.row_adamw.RowAdamW`)."""
        return [{"params": list(self.rows), "lr": lr, "by_row": True, "weight_decay": 0.0}]


class MappedTokens(IdentityTokens):
    """A trained network that maps the mean feature of an identity's images to its vectors.

    The network also makes vectors for identities outside the training set (after the encoders of InstantBooth, Shi et
    al., arXiv 2304.03411, and E4T, Gal et al., arXiv 2302.12228).

    Args:
        features: input features; None takes :class:`~.identity_features.IdentityFeatures` with its defaults.
        vectors: vectors of an identity.
        hidden: width of the hidden layer.
        word: word whose embedding the output is added to.
        spread: size of the initial output, in standard deviations of the vocabulary.
    """

    seen: Tensor
    mapper: TokenMapper

    def __init__(
        self,
        features: IdentityFeatures | None = None,
        vectors: int = 1,
        hidden: int = 512,
        word: str = "person",
        spread: float = 0.3,
    ) -> None:
        super().__init__(vectors, features or IdentityFeatures())
        check_range("tokens.spread", spread, 0, 100)
        check_range("tokens.hidden", hidden, 1, 65_536)
        self.hidden = hidden
        self.word = word
        self.spread = spread

    def _make(self, people: People) -> None:
        assert self.features is not None
        seen = self.features.of_identities(people.rows)
        self.register_buffer("seen", seen, persistent=False)  # follows from the data
        self.mapper = TokenMapper(
            seen.shape[1], self.hidden, self.vectors, [len(word) for word in people.word(self.word)]
        )
        self.mapper.initialize(seen, people.word(self.word), people.spreads(), self.spread)

    def forward(self, identities: Tensor) -> list[Tensor]:
        """Map the identities' features; see the base class."""
        vectors: list[Tensor] = self.mapper(self.seen[identities])
        return vectors

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the network's parameters."""
        return [{"params": list(self.mapper.parameters()), "lr": lr}]

    def save(self, folder: Path) -> None:
        """Write the network and the settings of its input features."""
        assert self.features is not None
        self.mapper.save(folder, self.features.settings)


class RareWord(IdentityTokens):
    """A rare word of the vocabulary for each identity, frozen (DreamBooth, Ruiz et al., arXiv 2208.12242, section 3.1).

    Rare words are short tokens of consonants only, from the end of the tokenizer's vocabulary. With more identities
    than such tokens, an identity is a sequence of several. A text encoder of few texts, such as tiny-sd's, never saw
    some of these tokens: their vectors are as short as they were before training, and the encoder, which is frozen
    here, hardly reads them. They are therefore scaled to the length of an ordinary word's vector.

    Args:
        vectors: rare tokens per identity; None takes the smallest number that tells all identities apart.
        word: word whose vector has the length that rare tokens are scaled to; None leaves them as they are.
    """

    def __init__(self, vectors: int | None = None, word: str | None = "person") -> None:
        super().__init__(vectors or 1, None)
        check_range("tokens.vectors", vectors, 1, 64)
        self._asked = vectors
        self.word = word

    def _make(self, people: People) -> None:
        pools = [rare_tokens(tokenizer) for tokenizer in people.tokenizers]
        smallest = max(2, min(len(pool) for pool in pools))
        if self._asked is None:
            self.vectors = next(length for length in itertools.count(1) if smallest**length >= self.count)
        if smallest**self.vectors < self.count:
            raise UserError(
                f"There are too few rare words for {self.count} identities.",
                found=f"{smallest} rare tokens, {self.vectors} of them to a word",
                remedy="leave vectors out, or set it higher",
            )
        places = torch.arange(self.count)[:, None] // smallest ** torch.arange(self.vectors) % smallest
        words = [None] * len(pools) if self.word is None else people.word(self.word)
        for number, (pool, vocabulary, word) in enumerate(zip(pools, people.vocabularies, words, strict=True)):
            table = vocabulary[torch.tensor(pool)[places]].detach().clone().float()
            if word is not None:
                table = nn.functional.normalize(table, dim=-1) * word.norm()
            self.register_buffer(f"table_{number}", table, persistent=False)  # follows from the base model

    def forward(self, identities: Tensor) -> list[Tensor]:
        """Look rare words up; see the base class."""
        return [table[identities] for table in self.buffers()]


def rare_tokens(tokenizer: Any) -> list[int]:
    """Return the ids of a CLIP tokenizer's short words without a vowel, largest id first."""
    words = {token: number for token, number in tokenizer.get_vocab().items() if number < tokenizer.vocab_size}
    rare = [number for token, number in words.items() if re.fullmatch(r"[bcdfghjklmnpqrstvwxz]{1,4}</w>", token)]
    if len(rare) < 2:
        raise UserError(
            "The tokenizer has no rare words.",
            looked_for="entries of consonants alone that end in </w>",
            found=shorten(list(words), 4),
            remedy="use FreeTokens or MappedTokens",
        )
    return sorted(rare, reverse=True)


def standardize(features: Tensor) -> Tensor:
    """Standardize (N, F) features over the identities; a constant becomes 0."""
    centered = features - features.mean(dim=0)
    return centered / centered.square().mean(dim=0).sqrt().clamp(min=1e-6)
