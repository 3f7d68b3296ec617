"""The words that a rendered person is described with, attribute by attribute, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffreid_lightning.captioning.attribute_network import Values
from diffreid_lightning.manifest.manifest import Manifest
from tools.miniperson.clips import CLIPS
from tools.miniperson.describe import BAG, CUT, HAT, PATTERN, UPPER, VIEW
from tools.miniperson.palette import GARMENT

COVERED_BY_COAT = ("shorts", "skirt", "long_skirt")
"""Lower garments of which a coat leaves nothing to be seen."""

UNKNOWN = -100
"""The number of what cannot be seen, and is not asked of a network."""

_PERSON = {
    ("female", True): "girl",
    ("male", True): "boy",
    ("female", False): "woman",
    ("male", False): "man",
}
_LOWER = {"long_skirt": "long skirt", "dress": ""}
_DOING = {clip.name: clip.words for clips in CLIPS.values() for clip in clips}


def hides_lower(upper: str, lower: str) -> bool:
    """Return true if the lower garment is hidden."""
    return upper == "coat" and lower in COVERED_BY_COAT


def words_of(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the words of a caption for a rendered picture.

    Returns:
        For each attribute a word, "" where there is nothing to say, None where it cannot be seen.
    """
    ground, _, wall = row["setting"].partition(" in front of ")
    bald, bag = row["hair_cut"] == "bald", row["bag"] != "none"
    seen = row["lower"] != "dress" and not hides_lower(row["upper"], row["lower"])
    return {
        "person": _PERSON[row["sex"], row["age"] == "child"],
        "age": row["age"] if row["age"] in ("young", "old") else "",
        "hair": "bald" if bald else CUT[row["hair_cut"]],
        "hair_color": None if bald else row["hair_colour"],
        "upper": UPPER[row["upper"]],
        "upper_color": row["upper_colour"],
        "upper_pattern": PATTERN.get(row["upper_pattern"], ""),
        "lower": _LOWER.get(row["lower"], row["lower"]) if seen or row["lower"] == "dress" else None,
        "lower_color": row["lower_colour"] if seen else None,
        "lower_pattern": PATTERN.get(row["lower_pattern"], "") if seen else None,
        "shoes": row["shoes"],
        "shoe_color": row["shoe_colour"],
        "hat": HAT[row["hat"]].partition(" ")[2] if row["hat"] != "none" else "",
        "bag": BAG[row["bag"]] if bag else "",
        "bag_color": row["bag_colour"] if bag else None,
        "pose": _DOING[row["pose"]],
        "view": VIEW[row["view"]],
        "ground": ground,
        "wall": f"in front of {wall}",
        "light": row["light"],
    }


def known_words(rows: Manifest) -> Values:
    """List the words for rendered pictures by attribute, sorted; an attribute that nobody shows is left out."""
    described = [words_of(row) for row in rows.table.to_pylist()]
    values: dict[str, tuple[str, ...]] = {}
    for name in described[0]:
        if said := sorted({word for words in described if (word := words[name]) is not None}):
            values[name] = tuple(said)
    for name in ("upper_color", "lower_color"):
        values[name] = tuple(sorted({*values.get(name, ()), *GARMENT}))
    return values


def number_words(rows: Manifest, values: Values) -> Tensor:
    """Number the words for rendered pictures.

    Args:
        rows: N pictures.
        values: the words of each of A attributes.

    Returns:
        (N, A) int64; :data:`UNKNOWN` for what cannot be seen, or is not among the words.
    """
    index: dict[str, dict[str | None, int]] = {
        name: {word: number for number, word in enumerate(words)} for name, words in values.items()
    }
    described = map(words_of, rows.table.to_pylist())
    numbers = [[index[name].get(words[name], UNKNOWN) for name in values] for words in described]
    return torch.tensor(numbers, dtype=torch.int64).reshape(-1, len(values))
