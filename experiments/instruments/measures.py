"""Measure images of people for the tables of stage 1: identity, copies, KID, attributes, variety."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.filtering.copy_search import nearest, precompute, thumbnails
from diffreid_lightning.filtering.rules.near_duplicates import NearDuplicates
from diffreid_lightning.manifest.manifest import Manifest
from experiments.generator.tiny_sd import kernel_distances
from experiments.instruments.attribute_labels import VALUES
from experiments.instruments.attribute_reader import AttributeNet, read_attributes
from experiments.instruments.pictures import outputs, read_pictures, to_floats
from experiments.instruments.recognition import Nearest
from experiments.instruments.scene_reader import SCENE, parts_of
from experiments.instruments.variety import entropy, vendi_score, within_people
from tools.miniperson.describe import VIEW

COPY = NearDuplicates().real or 0.0
"""Images nearer than this to a real one are copies of it, as for the filter."""

SET = 4
"""Images of one person in a set whose variety is measured."""

_VIEW = list(VALUES).index("view")
_UNASKED = -1


@dataclass(frozen=True)
class Instruments:
    """Trained networks that measure.

    Args:
        nearest: whom a picture is taken for.
        attributes: reads view, colors and sex.
        scenes: reads ground, wall and light.
        features: of the ImageNet network, for KID and variety.
    """

    nearest: Nearest
    attributes: AttributeNet
    scenes: AttributeNet
    features: nn.Module


@dataclass(frozen=True)
class Portrayed:
    """N images of people.

    Args:
        pictures: (N, 3, H, W) uint8.
        keys: whom they are to show.
        asked: (N, 4) int64 view, ground, wall and light that they are to have; -1 where nothing is asked.
    """

    pictures: Tensor
    keys: Sequence[IdentityKey]
    asked: npt.NDArray[np.int64]


def portrayed(rows: Manifest) -> Portrayed:
    """Read images and what the column ``attributes``, if there is one, asks of them."""
    labels, keys = rows.identities()
    texts = rows.table["attributes"].to_pylist() if "attributes" in rows.columns else ["{}"] * len(rows)
    asked = np.array([asked_of(json.loads(text)) for text in texts], dtype=np.int64).reshape(len(rows), -1)
    return Portrayed(read_pictures(rows), [keys[label] for label in labels], asked)


def asked_of(attributes: Mapping[str, str]) -> list[int]:
    """Number what can be read of the attributes asked for: view, ground, wall, light; -1 for what is not asked.

    Poses are not read.
    """
    views = {phrase: VALUES["view"].index(view) for view, phrase in VIEW.items()}
    asked = [views[attributes["view"]] if "view" in attributes else _UNASKED]
    place = parts_of(attributes["place"]) if "place" in attributes else (None, None)
    words = dict(zip(SCENE, (*place, attributes.get("light")), strict=True))
    return asked + [_UNASKED if word is None else SCENE[name].index(word) for name, word in words.items()]


def read_circumstances(instruments: Instruments, pictures: Tensor) -> npt.NDArray[np.int64]:
    """Read view, ground, wall and light of N pictures: (N, 4), in the numbers of :func:`asked_of`."""
    view = read_attributes(instruments.attributes, pictures)[:, _VIEW : _VIEW + 1]
    found: npt.NDArray[np.int64] = torch.cat([view, read_attributes(instruments.scenes, pictures)], dim=1).numpy()
    return found


def copies(pictures: Tensor, real: Tensor) -> float:
    """Share of the pictures that are nearer than :data:`COPY` to a real one, both (N, 3, H, W) uint8."""
    distances, _ = nearest(thumbnails(to_floats(pictures)), precompute(thumbnails(to_floats(real))))
    return float((distances < COPY).float().mean())


def agreement_with(asked: npt.NDArray[np.int64], read: npt.NDArray[np.int64]) -> float | None:
    """Share of what is asked that is read so; None where nothing is asked. Both (N, A)."""
    mask = asked != _UNASKED
    return float((asked == read)[mask].mean()) if mask.any() else None


def measure(images: Portrayed, real: Portrayed, instruments: Instruments) -> dict[str, Any]:
    """Measure images of people.

    Args:
        images: generated ones, or ``real`` itself, of which copies and KID mean nothing.
        real: the real images that the model was personalized with.
        instruments: what measures.

    Returns:
        ``recognized``, ``copies`` and ``agreement`` are shares, ``kid`` is KID to the real images; ``views`` and
        ``scenes`` are entropies in bits and ``vendi`` the Vendi score, of sets of :data:`SET` recognized images of one
        person, means over the ``varied`` people who have so many, None where nobody has.
    """
    recognized = instruments.nearest.recognized(images.pictures, images.keys)
    read = read_circumstances(instruments, images.pictures)
    found: dict[str, Any] = {
        "images": len(images.keys),
        "recognized": float(recognized.mean()),
        "agreement": agreement_with(images.asked, read),
        **variety(images, recognized, read, instruments.features),
    }
    if images is not real:
        found["copies"] = copies(images.pictures, real.pictures)
        distances = kernel_distances(instruments.features, real.pictures, {"kid": images.pictures})
        found["kid"] = distances["kid"]["mean"]
    return found


def variety(
    images: Portrayed, counted: npt.NDArray[np.bool_], read: npt.NDArray[np.int64], network: nn.Module
) -> dict[str, float | int | None]:
    """Variety of each person's images.

    Args:
        images: N images.
        counted: (N,) which of them count.
        read: (N, 4) view, ground, wall and light of each.
        network: images (B, 3, H, W) in 0..1 to (B, D).
    """
    if not counted.any():
        return {"varied": 0, "views": None, "scenes": None, "vendi": None}
    features = outputs(network, images.pictures[torch.from_numpy(counted)]).double().numpy()
    numbers = {key: number for number, key in enumerate(sorted(set(images.keys)))}
    people = np.array([numbers[key] for key in images.keys], dtype=np.int64)[counted]
    seen = read[counted]
    return {
        "varied": int((np.unique(people, return_counts=True)[1] >= SET).sum()),
        "views": within_people(people, lambda rows: entropy(seen[rows, 0]), SET),
        "scenes": within_people(people, lambda rows: entropy(seen[rows, 1:3]), SET),
        "vendi": within_people(people, lambda rows: vendi_score(features[rows]), SET),
    }
