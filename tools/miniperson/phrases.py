"""Rendered people in many words: each draw phrases the same picture another way and leaves something out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffreid_lightning.errors import check_range
from tools.miniperson.captions import CaptionSource
from tools.miniperson.clips import CLIPS
from tools.miniperson.describe import BAG, CUT, HAT, PATTERN, UPPER

Row = Mapping[str, Any]
Rng = np.random.Generator

_OPENING = ("", "", "", "a photo of ", "a street photo of ", "a picture of ", "a surveillance image of ")
_VIEW = {
    "front": ("seen from the front", "front view", "facing the camera"),
    "back": ("seen from behind", "back view", "rear view"),
    "left": ("seen from the left", "left side view", "side view"),
    "right": ("seen from the right", "right side view", "side view"),
}
_LIGHT = {
    "at night": ("at night", "at night", "in the dark", "under street lamps"),
    "in bright sunlight": ("in bright sunlight", "in the sun", "on a sunny day"),
    "under a grey sky": ("under a grey sky", "on a cloudy day", "in soft daylight"),
}
# Other words for a garment, which name several kinds of it.
_UPPER_ALSO = {
    "tshirt": ("shirt", "top"),
    "shirt": ("top",),
    "jumper": ("sweater", "top"),
    "hoodie": ("sweatshirt", "top"),
    "jacket": ("jacket",),
    "coat": ("overcoat",),
    "vest": ("top", "tank top"),
    "dress": ("dress",),
}
_LOWER_ALSO = {
    "trousers": ("pants",),
    "jeans": ("pants", "trousers"),
    "leggings": ("tights", "pants"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "long_skirt": ("skirt", "maxi skirt"),
}
_DOING = {clip.name: clip.words for clips in CLIPS.values() for clip in clips}


class RenderedPhrases(CaptionSource):
    """Captions from the attribute columns of a rendered corpus.

    A draw is a sentence ("a young woman wearing a red jumper and navy jeans, walking slowly, seen from the left") or a
    list of keywords ("woman, red jumper, side view, at night"). Most of what is known of the picture is mentioned in
    most draws, and each thing is left out in some, so that a model learns what every single word does.

    Args:
        full: share of the draws that are the manifest's own, complete caption, 0 to 1.
    """

    columns = (
        "caption",
        "sex",
        "age",
        "upper",
        "upper_colour",
        "upper_pattern",
        "lower",
        "lower_colour",
        "lower_pattern",
        "shoes",
        "shoe_colour",
        "hair_colour",
        "hair_cut",
        "hat",
        "bag",
        "bag_colour",
        "view",
        "pose",
        "setting",
        "light",
    )

    def __init__(self, full: float = 0.15) -> None:
        check_range("RenderedPhrases.full", full, 0, 1)
        self.full = full

    def __call__(self, row: Row, rng: Rng) -> str:
        """Phrase one picture."""
        if rng.random() < self.full:
            return str(row["caption"])
        garments = _garments(row, rng)
        around = _around(row, rng)
        if rng.random() < 0.25:  # keywords
            hair = [_hair(row)] if rng.random() < 0.4 else []
            return ", ".join([_noun(row, rng), *hair, *garments, *around])
        who = _with_article(_noun(row, rng))
        if rng.random() < 0.5:
            who += f" with {_hair(row)}"
        worn = [_with_article(garment) for garment in garments]
        wearing = f" {_one(('wearing', 'wearing', 'in', 'dressed in'), rng)} {_list(worn, rng)}" if worn else ""
        return _one(_OPENING, rng) + ", ".join([who + wearing, *around])


def _one(choices: tuple[str, ...], rng: Rng) -> str:
    return choices[int(rng.integers(len(choices)))]


def _list(items: list[str], rng: Rng) -> str:
    if len(items) > 1 and rng.random() < 0.7:
        return ", ".join(items[:-1]) + " and " + items[-1]
    return ", ".join(items)


def _with_article(words: str) -> str:
    plural = words.split(" with ")[0].endswith("s") and not words.endswith("dress")
    return words if plural else f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _noun(row: Row, rng: Rng) -> str:
    female = row["sex"] == "female"
    if rng.random() < 0.08:
        return _one(("person", "pedestrian"), rng)
    if row["age"] == "child" and rng.random() < 0.8:
        return "girl" if female else "boy"
    noun = "woman" if female else "man"
    return f"{row['age']} {noun}" if row["age"] in ("young", "old") and rng.random() < 0.5 else noun


def _hair(row: Row) -> str:
    return "a bald head" if row["hair_cut"] == "bald" else f"{CUT[row['hair_cut']]} {row['hair_colour']} hair"


def _garment(color: str, pattern: str, noun: str, rng: Rng) -> str:
    patterned = PATTERN.get(pattern) if rng.random() < 0.7 else None
    return " ".join(word for word in (color, patterned, noun) if word)


def _garments(row: Row, rng: Rng) -> list[str]:
    """Garments and what is carried, from top to bottom."""
    items = []
    upper = UPPER[row["upper"]] if rng.random() < 0.75 else _one(_UPPER_ALSO[row["upper"]], rng)
    if rng.random() < 0.92:
        items.append(_garment(row["upper_colour"], row["upper_pattern"], upper, rng))
    if row["lower"] != "dress" and rng.random() < 0.88:
        plain = row["lower"].replace("_", " ")
        lower = plain if rng.random() < 0.75 else _one(_LOWER_ALSO[row["lower"]], rng)
        items.append(_garment(row["lower_colour"], row["lower_pattern"], lower, rng))
    if rng.random() < 0.4:
        items.append(f"{row['shoe_colour']} {row['shoes']}")
    if row["hat"] != "none" and rng.random() < 0.7:
        items.append(HAT[row["hat"]].partition(" ")[2])
    if row["bag"] != "none" and rng.random() < 0.75:
        items.append(f"{row['bag_colour']} {BAG[row['bag']]}")
    return items


def _around(row: Row, rng: Rng) -> list[str]:
    """Return phrases for pose, view, place and light, in random order."""
    parts = []
    if rng.random() < 0.5:
        parts.append(_DOING[row["pose"]])
    if rng.random() < 0.85:
        parts.append(_one(_VIEW[row["view"]], rng))
    if rng.random() < 0.55:
        ground, _, wall = row["setting"].partition(" in front of ")
        parts.append(_one((row["setting"], ground, f"in front of {wall}"), rng))
    if rng.random() < 0.6:
        parts.append(_one(_LIGHT[row["light"]], rng))
    return [parts[index] for index in rng.permutation(len(parts))] if rng.random() < 0.4 else parts
