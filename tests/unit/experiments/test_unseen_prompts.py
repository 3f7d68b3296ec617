from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diffreid_lightning.errors import UserError
from experiments.instruments.unseen_prompts import draw_prompts, phrase
from tests.unit.experiments.conftest import OUTFITS, VIEWS


@pytest.mark.parametrize(
    ("outfit", "text"),
    [
        (("female", "white", "tshirt", "black", "shorts", "left"),
         "a woman wearing a white t-shirt and black shorts, seen from the left"),
        (("male", "orange", "vest", "navy", "jeans", "back"),
         "a man wearing an orange sleeveless top and navy jeans, seen from behind"),
        (("female", "beige", "coat", "orange", "long_skirt", "front"),
         "a woman wearing a beige coat and an orange long skirt, seen from the front"),
    ],
)  # fmt: skip
def test_an_outfit_in_words(outfit, text):
    assert phrase(*outfit) == text


def test_prompts_are_balanced_over_pairs_and_views(world):
    prompts = draw_prompts(world, 80)
    pairs = {(upper_colour, lower_colour) for _, upper_colour, _, lower_colour in OUTFITS["val"]}
    cells = Counter((prompt.pair, prompt.view) for prompt in prompts)
    assert set(cells) == {(pair, view) for pair in pairs for view in VIEWS}
    assert set(cells.values()) == {10}
    assert len({prompt.seed for prompt in prompts}) == 80
    for prompt in prompts:
        for word in (*prompt.pair, {"female": "woman", "male": "man"}[prompt.sex]):
            assert f" {word} " in prompt.text


def test_a_longer_list_begins_with_the_shorter(world):
    assert draw_prompts(world, 30)[:11] == draw_prompts(world, 11)
    assert draw_prompts(world, 11, seed=1) != draw_prompts(world, 11)


def test_pairs_that_training_shows_are_refused(world):
    mixed = np.array(world.numpy("split"), dtype=object)
    mixed[np.flatnonzero(mixed == "val")[0]] = "train"
    with pytest.raises(UserError, match="training has not shown"):
        draw_prompts(world.with_columns({"split": mixed.tolist()}), 4)


def test_a_corpus_without_held_out_outfits_is_refused(world):
    with pytest.raises(UserError, match="no outfits"):
        draw_prompts(world.filter(world.numpy("split") == "train"), 4)


def test_nothing_is_asked_for_that_a_coat_would_cover(world):
    covered = world.with_columns({"upper": "coat", "lower": ["skirt", "jeans"] * (len(world) // 2)})
    assert {prompt.text.split(", ")[0].split()[-1] for prompt in draw_prompts(covered, 40)} == {"jeans"}
