"""Random features of people under cameras, as many as a benchmark's test set has images."""

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


def make_images(size: Size) -> Images:
    """Draw unit-norm features: a center per person, an offset per camera, noise, all with a decaying spectrum."""
    random = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, DIMENSION + 1).pow(-0.4)
    centers = torch.randn(size.people + 1, DIMENSION, generator=random)
    offsets = 0.5 * torch.randn(size.cameras, DIMENSION, generator=random)
    count = size.queries + size.gallery
    pids = torch.randint(1, size.people + 1, (count,), generator=random)
    pids[size.queries + torch.randperm(size.gallery, generator=random)[: size.distractors]] = 0
    camids = torch.randint(size.cameras, (count,), generator=random)
    features = torch.empty(count, DIMENSION)
    for rows in torch.arange(count).split(2048):
        part = torch.randn(len(rows), DIMENSION, generator=random)
        part *= 1 + torch.rand(len(rows), 1, generator=random)
        part += (pids[rows, None] > 0) * centers[pids[rows]] + offsets[camids[rows]]
        features[rows] = torch.nn.functional.normalize(part * spectrum)
    q = size.queries
    return Images(features, q, (pids[:q], pids[q:], camids[:q], camids[q:]))
