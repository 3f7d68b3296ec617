"""IIR, the Identity Information Representer: vectors that stand for identities in a prompt, in three forms.

The paper represents an identity beside the words of its caption; how is open. Here an identity has a name, a word of
its own (``<market1501-0002>``), and the name has one or more vectors where the text encoder looks its words up. Only
these vectors, or what makes them, are trained.
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
    """Who is to be represented, and in which text encoders.

    Args:
        rows: their images.
        tokenizers: one for each text encoder, without names.
        vocabularies: for each text encoder (rows, dim) the vectors of its words.
    """

    rows: Manifest
    tokenizers: list[Any]
    vocabularies: list[Tensor]

    @property
    def count(self) -> int:
        """How many they are."""
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
        """Return by how much words differ in each number of their vectors, (dim,) for each text encoder."""
        return [vocabulary.float().std(dim=0) for vocabulary in self.vocabularies]


class IdentityTokens(nn.Module, ABC):
    """Vectors of N identities, V of each for every text encoder.

    Args:
        vectors: V, vectors of an identity; each takes a token of the prompt.
        features: what the vectors are made from, if anything.
    """

    def __init__(self, vectors: int, features: IdentityFeatures | None) -> None:
        super().__init__()
        check_range("tokens.vectors", vectors, 1, 64)
        if vectors < 1:
            raise UserError(f"An identity cannot have {vectors} vectors.", looked_for="at least 1")
        self.vectors = vectors
        self.features = features
        self.count = 0

    def prepare_data(self, rows: Manifest) -> None:
        """Compute what takes long and lies on disk afterwards; on one process."""
        if self.features is not None:
            self.features.encode(rows)

    def begin(self, people: People) -> None:
        """Make the vectors, or what makes them."""
        self.count = people.count
        self._make(people)

    @abstractmethod
    def _make(self, people: People) -> None:
        """Make parameters and buffers."""

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
        """Write what can make the vectors of further identities, if there is any."""


class FreeTokens(IdentityTokens):
    """A free embedding for each identity (Textual Inversion, Gal et al., arXiv 2208.01618, for many at once).

    An identity starts at a word, off it by a little in a direction of its own. The direction is random, or follows
    from the mean feature of its images, so that people who look alike start side by side.

    Args:
        vectors: vectors of an identity.
        word: where identities start.
        features: where the direction comes from; None draws it.
        spread: how far off identities start, in standard deviations of the vocabulary.
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
        features = None if self.features is None else standardized(self.features.of_identities(people.rows))
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
        """Train the rows, each by its own count of steps."""
        return [{"params": list(self.rows), "lr": lr, "by_row": True, "weight_decay": 0.0}]


class MappedTokens(IdentityTokens):
    """A network that maps the mean feature of an identity's images to its vectors.

    What is trained is the network, so an identity it has never seen has vectors as well (after the encoders of
    InstantBooth, Shi et al., arXiv 2304.03411, and E4T, Gal et al., arXiv 2302.12228).

    Args:
        features: what it sees of an identity; None takes the ImageNet network of
            :class:`~.identity_features.IdentityFeatures` as it stands.
        vectors: vectors of an identity.
        hidden: width of its hidden layer.
        word: what its answer is added to.
        spread: how far off identities start, in standard deviations of the vocabulary.
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
        self.mapper.begin(seen, people.word(self.word), people.spreads(), self.spread)

    def forward(self, identities: Tensor) -> list[Tensor]:
        """Map their features; see the base class."""
        vectors: list[Tensor] = self.mapper(self.seen[identities])
        return vectors

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Train the network."""
        return [{"params": list(self.mapper.parameters()), "lr": lr}]

    def save(self, folder: Path) -> None:
        """Write the network, and what it sees of an identity."""
        assert self.features is not None
        self.mapper.save(folder, self.features.settings)


class RareWord(IdentityTokens):
    """A rare word of the vocabulary for each identity, frozen (DreamBooth, Ruiz et al., arXiv 2208.12242, section 3.1).

    Rare are short words of consonants alone, those last that the tokenizer learnt. Where there are fewer of them than
    identities, an identity's word is a sequence of several.

    Args:
        vectors: rare tokens in a row that make an identity's word; None takes as many as it needs for all to differ.
    """

    def __init__(self, vectors: int | None = None) -> None:
        super().__init__(vectors or 1, None)
        check_range("tokens.vectors", vectors, 1, 64)
        self._asked = vectors

    def _make(self, people: People) -> None:
        pools = [rare_tokens(tokenizer) for tokenizer in people.tokenizers]
        smallest = max(2, min(len(pool) for pool in pools))
        if self._asked is None:
            self.vectors = next(length for length in itertools.count(1) if smallest**length >= self.count)
        if smallest**self.vectors < self.count:
            raise UserError(
                f"There are too few rare words for {self.count} identities.",
                found=f"{smallest} rare tokens, {self.vectors} of them to a word",
                remedy="leave vectors open, or set it higher",
            )
        places = torch.arange(self.count)[:, None] // smallest ** torch.arange(self.vectors) % smallest
        for number, (pool, vocabulary) in enumerate(zip(pools, people.vocabularies, strict=True)):
            table = vocabulary[torch.tensor(pool)[places]].detach().clone()
            self.register_buffer(f"table_{number}", table.float(), persistent=False)  # follows from the base model

    def forward(self, identities: Tensor) -> list[Tensor]:
        """Look rare words up; see the base class."""
        return [table[identities] for table in self.buffers()]


def rare_tokens(tokenizer: Any) -> list[int]:
    """Return the numbers of a CLIP tokenizer's short words without a vowel, those learnt last first."""
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


def standardized(features: Tensor) -> Tensor:
    """Bring features, (N, F), to mean 0 and deviation 1 over the identities; a constant becomes 0."""
    centerd = features - features.mean(dim=0)
    return centerd / centerd.square().mean(dim=0).sqrt().clamp(min=1e-6)
