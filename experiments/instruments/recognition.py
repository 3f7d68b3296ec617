"""Recognize people in pictures with the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.judge import Judge
from experiments.instruments.pictures import outputs, read_pictures


@dataclass(frozen=True)
class Nearest:
    """Nearest-identity classifier on the judge's features.

    Args:
        network: images (B, 3, H, W) in 0..1 to (B, C), the higher the nearer.
        people: the C people.
        way: in words, for a table's note.
    """

    network: nn.Module
    people: tuple[IdentityKey, ...]
    way: str

    def name(self, pictures: Tensor) -> list[IdentityKey]:
        """Name the nearest person of each picture, (N, 3, H, W) uint8."""
        return [self.people[place] for place in outputs(self.network, pictures).argmax(dim=1).tolist()]

    def recognized(self, pictures: Tensor, keys: Sequence[IdentityKey]) -> npt.NDArray[np.bool_]:
        """Tell which of N pictures are taken for the person they are to show."""
        return np.array([found == key for found, key in zip(self.name(pictures), keys, strict=True)], dtype=bool)


class _Features(nn.Module):
    """The judge's features behind its neck, of unit length."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor) -> Tensor:
        """Look at images (B, 3, H, W) in 0..1: (B, D)."""
        return F.normalize(self.judge.neck(self.judge.backbone(images)).float(), dim=1)


class _Similarities(nn.Module):
    """Cosine similarity with people's mean features."""

    def __init__(self, features: nn.Module, sums: Tensor) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("means", F.normalize(sums, dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in 0..1 with everybody: (B, C)."""
        means: Tensor = self.get_buffer("means")
        similarities: Tensor = self.features(images) @ means.T
        return similarities


def nearest_person(
    judge: Judge, known: tuple[IdentityKey, ...], asked: Sequence[IdentityKey], everybody: Manifest
) -> Nearest:
    """Choose how the judge finds the nearest person.

    Whom it was trained on it names itself, among all of them. For others, such as the ``val`` people on whom settings
    are chosen, the nearest is the one whose real images have the nearest mean feature, among all of a dataset.

    Args:
        judge: as :func:`~experiments.instruments.judge.load_judge` gives it, with the people it was trained on.
        known: those people.
        asked: whom generated images are to show.
        everybody: real images of all people among whom the nearest is looked for.

    Raises:
        UserError: somebody who is asked for is neither known to the judge nor among everybody.
    """
    if set(asked) <= set(known):
        return Nearest(judge, known, f"named by the judge among its {len(known)} training people")
    labels, keys = everybody.identities()
    strangers = sorted(set(asked) - set(keys))
    if strangers:
        raise UserError(f"The judge cannot tell {strangers[0]} from others.", looked_for="images of that person")
    network = _Features(judge)
    features = outputs(network, read_pictures(everybody))
    sums = torch.zeros(len(keys), features.shape[1]).index_add_(0, torch.from_numpy(labels), features)
    way = f"the nearest mean feature of the judge among {len(keys)} people"
    return Nearest(_Similarities(network, sums), tuple(keys), way)
