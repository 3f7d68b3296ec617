"""Read of generated images whether they show what was asked for: view, ground, wall and light."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from diffreid_lightning.captioning.attribute_network import AttributeNetwork
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.attribute_reader import read_attributes

ASKED = ("view", "ground", "wall", "light")


def read_words(network: AttributeNetwork, pictures: torch.Tensor) -> dict[str, npt.NDArray[np.str_]]:
    """Read N pictures, (N, 3, H, W) uint8, each with its mirror image: the words of what can be asked for."""
    read = dict(zip(network.values, read_attributes(network, pictures).numpy().T, strict=True))
    return {name: np.asarray(network.values[name])[read[name]] for name in ASKED}


def asked_words(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return what was asked for, attribute by attribute, in the reader's words; "" where nothing was."""
    ground, between, wall = attributes.get("place", "").partition(" in front of ")
    return {
        "view": attributes.get("view", ""),
        "ground": ground,
        "wall": f"in front of {wall}" if between else "",
        "light": attributes.get("light", ""),
    }


def as_asked(rows: Manifest, read: Mapping[str, npt.NDArray[np.str_]]) -> dict[str, tuple[float, float]]:
    """Return by attribute the share of requests that is shown, and the share under exchanged requests."""
    wanted = [asked_words(json.loads(text)) for text in rows.table["attributes"].to_pylist()]
    rng, found = np.random.default_rng(0), {}
    for name in ASKED:
        asked = np.array([words[name] for words in wanted])
        told = asked != ""
        if not told.any():
            continue
        asked, seen = asked[told], read[name][told]
        chance = np.mean([(rng.permutation(asked) == seen).mean() for _ in range(200)])
        found[name] = (float((asked == seen).mean()), float(chance))
    return found
