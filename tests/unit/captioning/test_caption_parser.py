"""Captions of the kinds that captioners write, taken apart."""

from __future__ import annotations

import numpy as np
import pytest

from diffreid_lightning.captioning.caption_parser import read_caption
from diffreid_lightning.datasets import open_dataset
from tools.miniperson.clips import CLIPS
from tools.miniperson.describe import UPPER
from tools.miniperson.phrases import RenderedPhrases


@pytest.mark.parametrize(
    ("caption", "person", "items", "circumstances"),
    [
        (
            "a person wearing a red and white top and navy trousers, in the dark",
            "person",
            {"top": {"red", "white"}, "trousers": {"navy"}},
            "in the dark",
        ),
        (
            "a woman in a white shirt and black pants walking down the street",
            "woman",
            {"shirt": {"white"}, "trousers": {"black"}},
            "walking down the street",
        ),
        (
            "A young woman with long blonde hair, wearing a black-and-white checkered T-shirt; seen from behind.",
            "woman",
            {"hair": {"long", "blond"}, "t-shirt": {"black", "white", "checked"}},
            "seen from behind",
        ),
        ("a man riding a bike down a street at night", "man", {}, "riding a bike down a street at night"),
        (
            "a man is walking on a tiled floor while looking at his phone",
            "man",
            {},
            "walking on a tiled floor, looking at his phone",
        ),
        ("a man without a bag in front of a red car", "man", {}, "in front of a red car"),
        ("a girl with no hat and a pink backpack", "girl", {"backpack": {"pink"}}, ""),
        (
            "a man in black standing next to a parking lot",
            "man",
            {"clothes": {"black"}},
            "standing next to a parking lot",
        ),
        (
            "a woman in a long red wool coat over a grey sweater with a dark blue shoulder bag",
            "woman",
            {"coat": {"long", "red"}, "sweater": {"grey"}, "shoulder bag": {"navy"}},
            "",
        ),
        ("a man in grey dress pants and brown dress shoes", "man", {"trousers": {"grey"}, "shoes": {"brown"}}, ""),
        ("a man in a black suit jacket and a top hat", "man", {"jacket": {"black"}, "hat": set()}, ""),
        ("a girl in a red bathing suit", "girl", {"clothes": {"red"}}, ""),
        ("a man in a black wet suit", "man", {"clothes": {"black"}}, ""),
        ("a woman without a hat or glasses, in a red dress", "woman", {"dress": {"red"}}, ""),
        ("a man not carrying a bag, in a shirt", "man", {"shirt": set()}, ""),
        ("a man with no bag or hat and in jeans", "man", {"jeans": set()}, ""),
        ("a man without a hat, glasses or a blue bag, wearing a blue shirt", "man", {"shirt": {"blue"}}, ""),
        ("a person with no bag, wearing a blue jacket or coat", "person", {"jacket": {"blue"}, "coat": set()}, ""),
        ("a man with neither hat nor bag", "man", {}, ""),
        ("a man not looking at his phone, at night", "man", {}, "at night"),
        ("a woman with her blonde hair in a bun", "woman", {"hair": {"blond", "pinned-up"}}, ""),
        ("a bald man in a suit", "man", {"bald head": set(), "suit": set()}, ""),
        ("woman, red jumper, side view, at night", "woman", {"sweater": {"red"}}, "side view, at night"),
        ("a blurry photo", None, {}, ""),
        ("", None, {}, ""),
        ("\u2019s ,,, 123 \u4eba", None, {}, ""),
    ],
)
def test_a_caption_is_understood(
    caption: str, person: str | None, items: dict[str, set[str]], circumstances: str
) -> None:
    said = read_caption(caption)
    assert said.person == person
    assert {item.noun: set(item.modifiers) for item in said.items} == items
    assert said.circumstances == circumstances


@pytest.mark.parametrize("caption", ["a 20 year old woman", "woman, 20 years old", "a 20-year-old woman in a coat"])
def test_an_age_in_years_is_not_old(caption: str) -> None:
    assert (read_caption(caption).person, read_caption(caption).age) == ("woman", None)


def test_rendered_captions_of_many_forms_are_understood() -> None:
    """The renderer's own sentences and keyword lists, whose columns say what they must have meant."""
    manifest = open_dataset("miniperson").manifest()
    rows = manifest.table.slice(0, 300).to_pylist()
    source = RenderedPhrases(full=0.0)
    rng = np.random.default_rng(0)
    told = {"top": 0, "view": 0}
    for row in rows:
        caption = source({"setting": "on grass in front of a building", **row, "light": "at night"}, rng)
        said = read_caption(caption)
        for item in said.items:
            if item.kind.common == "top" and UPPER[row["upper"]] != "dress":
                told["top"] += 1
                assert row["upper_colour"] in item.modifiers, caption
        if "seen from" in caption or " view" in caption or "facing" in caption:
            told["view"] += 1
            assert any(word in said.circumstances for word in ("seen", "view", "facing")), caption
        assert ("grass" in caption) <= ("grass" in said.circumstances), caption
    assert min(told.values()) > 100


@pytest.mark.parametrize(
    "around",
    [
        f"{pose}, seen from behind, on {ground} in front of {wall}, {light}"
        for pose in sorted({clip.words for clip in CLIPS["world"]})
        for ground, wall, light in (
            ("paving", "a glass front", "at night"),
            ("wooden boards", "a tiled wall", "in bright sunlight"),
            ("bricks", "a plain wall", "under a grey sky"),
        )
    ],
)
def test_all_that_the_renderer_says_of_an_image_is_kept(around: str) -> None:
    read = read_caption(f"an old man wearing a red shirt, navy jeans, a hood, {around}")
    assert read.circumstances == around
    assert [item.noun for item in read.items] == ["shirt", "jeans", "hood"]
