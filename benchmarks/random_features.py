"""Draw random features of people under cameras, as many as a benchmark's test set has images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIMENSION = 2048


@dataclass(frozen=True)
class Size:
    """Images of a benchmark's test set."""

    title: str
    queries: int
    gallery: int
    people: int
    cameras: int
    distractors: int


SIZES = {
    "market": Size("Market-1501", 3368, 15913, 750, 6, 2798),
    "msmt17": Size("MSMT17", 11659, 82161, 3060, 15, 0),
}


@dataclass(frozen=True)
class Images:
    """Features of a test set, queries first, and their ids."""

    everyone: Tensor
    queries: int
    ids: tuple[Tensor, Tensor, Tensor, Tensor]

    @property
    def query(self) -> Tensor:
        """Features of the queries."""
        return self.everyone[: self.queries]

    @property
    def gallery(self) -> Tensor:
        """Features of the gallery."""
        return self.everyone[self.queries :]


@dataclass(frozen=True)
class TrainingImages:
    """Features of a training set, and its ids."""

    features: Tensor
    pids: Tensor
    camids: Tensor


def make_images(size: Size) -> Images:
    """Draw unit-norm features of a test set."""
    random = torch.Generator().manual_seed(0)
    people = _People(size.people, size.cameras, random)
    count = size.queries + size.gallery
    pids = torch.randint(1, size.people + 1, (count,), generator=random)
    pids[size.queries + torch.randperm(size.gallery, generator=random)[: size.distractors]] = 0
    camids = torch.randint(size.cameras, (count,), generator=random)
    q = size.queries
    return Images(people.draw(pids, camids, random), q, (pids[:q], pids[q:], camids[:q], camids[q:]))


def make_training_images(count: int, people: int, cameras: int) -> TrainingImages:
    """Draw unit-norm features of a training set, in random order."""
    random = torch.Generator().manual_seed(0)
    drawn = _People(people, cameras, random)
    pids = torch.randint(1, people + 1, (count,), generator=random)
    camids = torch.randint(cameras, (count,), generator=random)
    return TrainingImages(drawn.draw(pids, camids, random), pids, camids)


class _People:
    """A center per person and an offset per camera."""

    def __init__(self, people: int, cameras: int, random: torch.Generator) -> None:
        self._centers = torch.randn(people + 1, DIMENSION, generator=random)
        self._offsets = 0.5 * torch.randn(cameras, DIMENSION, generator=random)

    def draw(self, pids: Tensor, camids: Tensor, random: torch.Generator) -> Tensor:
        """Add noise and let the spectrum decay, (N, D); person 0 has no center."""
        spectrum = torch.arange(1, DIMENSION + 1).pow(-0.4)
        features = torch.empty(len(pids), DIMENSION)
        for rows in torch.arange(len(pids)).split(2048):
            part = torch.randn(len(rows), DIMENSION, generator=random)
            part *= 1 + torch.rand(len(rows), 1, generator=random)
            part += (pids[rows, None] > 0) * self._centers[pids[rows]] + self._offsets[camids[rows]]
            features[rows] = torch.nn.functional.normalize(part * spectrum)
        return features
