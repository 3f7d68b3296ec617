"""Captions composed from attributes that a small network reads off the crop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffreid_lightning.captioning.attribute_network import (
    CONFIG,
    SIZE,
    TINY_READER,
    WEIGHTS,
    AttributeNetwork,
    average_mirrored,
)
from diffreid_lightning.captioning.base import Captioner, hash_files
from diffreid_lightning.captioning.color_captioner import garment_colors
from diffreid_lightning.captioning.consensus import with_article
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.errors import check_range
from diffreid_lightning.paths import user_path

#: what a caption cannot do without: their likeliest word is taken, however unsure
_NEEDED = ("person", "upper", "lower")
_GARMENT_COLORS = ("upper_color", "lower_color")


class ReaderCaptioner(Captioner):
    """Caption clothes, carried things, hair, view, pose, place and light, as a small network reads them.

    It stands where BLIP-2 stands for photographs: the embedded ``tiny-reader`` was trained on the rendered world
    corpus, in the words that tiny-sd was trained on, and has seen no image of MiniPerson. An attribute of which it is
    not sure is left out, except the garments' colors, which are then taken from the pixels. Other weights come from
    ``fit --config tools/reader/configs/reader.yaml`` in a clone.

    Args:
        model: ``tiny-reader``, or the folder of a trained reader.
        confidence: minimum probability of a word to be used, 0 to 1; person and garments are always named.

    Raises:
        UserError: there is no such reader, or the confidence is out of its range.
    """

    def __init__(self, model: str = TINY_READER, confidence: float = 0.6) -> None:
        super().__init__()
        check_range("model.confidence", confidence, 0, 1)
        self.confidence = confidence
        self._folder = reader_folder(model)
        self.network = AttributeNetwork.load(self._folder)

    @property
    def cache_key(self) -> dict[str, Any]:
        """Weights and confidence."""
        weights = hash_files([self._folder / name for name in (CONFIG, WEIGHTS)])
        return {**super().cache_key, "weights": weights, "confidence": self.confidence}

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Caption images one by one, so that an image's words do not depend on the batch it is in."""
        return [write_caption(self.describe(image)) for image in images]

    def describe(self, image: Image.Image) -> dict[str, str]:
        """Read a crop, and take the garments' colors by body region where the network is not sure of them."""
        words = self.read(image)
        unsure = [name for name in _GARMENT_COLORS if not words.get(name)]
        if unsure:
            seen = dict(zip(_GARMENT_COLORS, garment_colors(image), strict=True))
            words |= {name: seen[name] for name in unsure}
        return words

    @torch.no_grad()
    def read(self, image: Image.Image) -> dict[str, str]:
        """Read the attributes of a crop, from it and its mirror image together.

        Args:
            image: RGB, of any size.

        Returns:
            A word for each attribute; "" where there is none, or it is not sure enough.
        """
        view = evaluation_view(image, SIZE).to(self.device).float().div_(255)
        both = torch.stack([view, view.flip(-1)]).to(next(self.network.parameters()).dtype)
        straight, mirrored = self.network(both).float().split(1)
        averaged = average_mirrored(straight, mirrored, self.network.values)
        scored = {
            name: dict(zip(words, averaged[name][0].softmax(0).tolist(), strict=True))
            for name, words in self.network.values.items()
        }
        found = {}
        for name, scores in scored.items():
            word, probability = max(scores.items(), key=lambda pair: pair[1])
            found[name] = word if name in _NEEDED or probability >= self.confidence else ""
        return {**found, **_outfit(scored)}


def _outfit(scored: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return the likeliest pair of garments: nothing is worn below a dress, and something below all others."""
    pairs = {
        (upper, lower): above * below
        for upper, above in scored.get("upper", {}).items()
        for lower, below in scored.get("lower", {}).items()
        if (upper == "dress") == (lower == "")
    }
    if not pairs:
        return {}
    upper, lower = max(pairs, key=lambda pair: pairs[pair])
    return {"upper": upper, "lower": lower}


def reader_folder(model: str) -> Path:
    """Return the folder of a reader by name or path."""
    return Path(__file__).parent / "tiny_reader" if model == TINY_READER else user_path(model)


def write_caption(words: Mapping[str, str]) -> str:
    """Compose a caption from the words for each attribute; those that are missing or "" are left out ("a person").

    "a young woman with long brown hair wearing a red striped jumper, navy jeans, brown boots and carrying a black
    backpack, walking slowly, seen from the left, on grass in front of a building, at night"
    """

    def join(*names: str) -> str:
        return " ".join(filter(None, (words.get(name, "") for name in names)))

    child = words.get("person") in ("girl", "boy")
    parts = [with_article((join("person") if child else join("age", "person")) or "person")]
    if words.get("hair") == "bald":
        parts.append("with a bald head")
    elif words.get("hair"):
        parts.append(f"with {join('hair', 'hair_color')} hair")
    names = ("upper_color", "upper_pattern", "upper"), ("lower_color", "lower_pattern", "lower")
    worn = [join(*attributes) for attributes in names if words.get(attributes[-1])]
    worn += [join(color, noun) for color, noun in (("shoe_color", "shoes"), ("", "hat")) if words.get(noun)]
    if worn:
        parts.append("wearing " + ", ".join(map(with_article, worn)))
    if words.get("bag"):
        parts.append(f"{'and ' if worn else ''}carrying {with_article(join('bag_color', 'bag'))}")
    around = [join("pose"), join("view"), join("ground", "wall"), join("light")]
    return ", ".join(filter(None, [" ".join(parts), *around]))
