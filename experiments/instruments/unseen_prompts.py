"""Prompts for pairs of garment colors that a generator has never seen together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tools.miniperson.describe import UPPER, VIEW
from tools.reader.labels import hides_lower


@dataclass(frozen=True)
class Prompt:
    """A prompt and what it asks for.

    Args:
        text: the prompt.
        sex: female or male.
        upper_colour: color of the upper garment.
        lower_colour: color of the lower garment.
        view: front, back, left or right.
        seed: of the noise.
    """

    text: str
    sex: str
    upper_colour: str
    lower_colour: str
    view: str
    seed: int

    @property
    def pair(self) -> tuple[str, str]:
        """Colors of upper and lower garment."""
        return self.upper_colour, self.lower_colour


def phrase(sex: str, upper_colour: str, upper: str, lower_colour: str, lower: str, view: str) -> str:
    """Put an outfit and a view into the corpus's words.

    Returns:
        A line such as "a woman wearing a white t-shirt and black shorts, seen from the left".
    """
    garment = f"{upper_colour} {UPPER[upper]}"
    below = f"{lower_colour} {lower.replace('_', ' ')}"
    worn = [f"{'an' if garment[0] in 'aeiou' else 'a'} {garment}"]
    worn.append(f"{'an' if below[0] in 'aeiou' else 'a'} {below}" if lower.endswith("skirt") else below)
    return f"a {'woman' if sex == 'female' else 'man'} wearing {' and '.join(worn)}, {VIEW[view]}"


def draw_prompts(world: Manifest, count: int, seed: int = 0) -> list[Prompt]:
    """Draw prompts from the outfits of a corpus's ``val`` people, as many of each color pair and of each view.

    Pairs take turns; each time a pair has had all its turns, it goes on to the next view. Dresses are left out: they
    have one color; and so is what a coat would cover.

    Args:
        world: manifest of a rendered corpus whose ``val`` people wear pairs of colors that no one in ``train`` wears.
        count: how many.
        seed: of the draws.

    Raises:
        UserError: there is no such row, or somebody in ``train`` wears such a pair.
    """
    columns = ("split", "sex", "upper", "upper_colour", "lower", "lower_colour")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(world.table[n].to_pylist() for n in columns))]  # noqa: B905
    outfits: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        visible = row["lower"] != "dress" and not hides_lower(row["upper"], row["lower"])
        if row["split"] == "val" and visible:
            outfits[row["upper_colour"], row["lower_colour"]].append(row)
    seen = sorted(
        {(row["upper_colour"], row["lower_colour"]) for row in rows if row["split"] == "train"} & set(outfits)
    )
    if not outfits or seen:
        raise UserError(
            f"{world.root} holds no outfits to ask for that training has not shown.",
            looked_for="val rows whose colors of upper and lower garment no train row has",
            found=f"{seen[0][0]} and {seen[0][1]} in both" if seen else "no val row without a dress",
            remedy="render the corpus: python -m tools.miniperson.render --domain world --out DIR",
        )
    pairs, views, rng = sorted(outfits), list(VIEW), np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        pair, view = pairs[number % len(pairs)], views[number // len(pairs) % len(views)]
        row = outfits[pair][int(rng.integers(len(outfits[pair])))]
        text = phrase(row["sex"], row["upper_colour"], row["upper"], row["lower_colour"], row["lower"], view)
        prompts.append(Prompt(text, row["sex"], *pair, view, seed=int(rng.integers(2**31))))
    return prompts
