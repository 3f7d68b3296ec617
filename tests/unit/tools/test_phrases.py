"""Captions of rendered people say what the columns say, each time in other words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tools.miniperson import corpus as plan
from tools.miniperson import palette
from tools.miniperson.describe import attributes, describe
from tools.miniperson.phrases import RenderedPhrases

VIEWS = ("front", "back", "left", "right")
LIGHTS = ("at night", "in bright sunlight", "under a grey sky")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    """Columns of people as the renderer writes them."""
    world = plan.world(60, cameras=2)
    made = []
    for number, person in enumerate(plan.people(world)):
        view, light = VIEWS[number % 4], LIGHTS[number % 3]
        clip = world.clips[number % len(world.clips)]
        setting = world.viewpoints[number % 2].place.setting
        made.append(
            attributes(person.look)
            | {"view": view, "pose": clip.name, "setting": setting, "light": light}
            | {"caption": describe(person.look, view, clip.words, setting, light)}
        )
    return made


def draws(row: dict[str, object], count: int = 200) -> list[str]:
    source = RenderedPhrases()
    return [source(row, np.random.default_rng([number, 7])) for number in range(count)]


def test_no_draw_contradicts_its_row(rows: list[dict[str, object]]) -> None:
    colors = set(palette.GARMENT) | set(palette.HAIR)
    for row in rows:
        named = {str(row[key]) for key in ("upper_colour", "lower_colour", "shoe_colour", "hair_colour", "bag_colour")}
        other_sex = {"female": {"man", "boy"}, "male": {"woman", "girl"}}[str(row["sex"])]
        sides = set(VIEWS) - {row["view"]}
        for caption in draws(row, 60):
            words = set(caption.replace(",", "").split())
            mentioned = words & colors
            # "a grey sky" is no garment.
            assert mentioned <= named | {"grey"}, caption
            assert not words & other_sex, caption
            for side in sides - {"front", "back"}:
                assert f"from the {side}" not in caption
                assert f"{side} side view" not in caption
            if row["view"] != "front":
                assert "front view" not in caption
                assert "from the front" not in caption
            if row["light"] != "at night":
                assert not words & {"night", "dark", "lamps"}, caption


def test_every_thing_is_mentioned_in_many_draws_and_left_out_of_some(rows: list[dict[str, object]]) -> None:
    row = next(row for row in rows if row["upper_colour"] not in (row["lower_colour"], row["shoe_colour"]))
    captions = draws(row, 600)
    share = np.mean([str(row["upper_colour"]) in caption for caption in captions])
    assert 0.7 < share < 1
    assert 0.3 < np.mean([any(word in caption for word in ("view", "seen", "camera")) for caption in captions]) < 1
    lengths = Counter(len(caption.split()) for caption in captions)
    assert min(lengths) < 8 < 25 < max(lengths)


def test_a_draw_follows_from_its_seed(rows: list[dict[str, object]]) -> None:
    assert draws(rows[0], 20) == draws(rows[0], 20)
    assert len(set(draws(rows[0], 50))) > 40


def test_full_captions_alone(rows: list[dict[str, object]]) -> None:
    assert RenderedPhrases(full=1.0)(rows[3], np.random.default_rng(0)) == rows[3]["caption"]


def test_places_are_named_in_a_world_and_not_in_the_benchmark() -> None:
    world = plan.world(1, cameras=12)
    assert all(view.place.setting.startswith("on ") for view in world.viewpoints)
    assert len({view.place.setting for view in world.viewpoints}) > 6
    assert {view.light_name for view in world.viewpoints} <= set(LIGHTS)
    for name in ("campus", "station"):
        assert not any(view.place.setting for view in plan.domain(name).viewpoints)


def test_unseen_color_pairs_are_held_out() -> None:
    world = plan.world(400, cameras=2)
    assert len(world.unseen) == 20
    splits: dict[str, set[tuple[str, str]]] = {"train": set(), "val": set()}
    for person in plan.people(world):
        pair = (person.look.upper_fabric.name, person.look.lower_fabric.name)
        for picture in person.pictures:
            splits[picture.split].add(pair)
    assert splits["val"]
    assert splits["val"] <= world.unseen
    assert not splits["train"] & world.unseen
    # Each color of a held-out pair is seen in other pairs.
    uppers, lowers = ({pair[side] for pair in splits["train"]} for side in (0, 1))
    assert {pair[0] for pair in splits["val"]} <= uppers
    assert {pair[1] for pair in splits["val"]} <= lowers
