"""Words on which captions agree describe the identity, the others do not."""

from __future__ import annotations

import itertools

import pytest

from diffreid_lightning.captioning.consensus import find_consensus, measure_yield
from diffreid_lightning.errors import UserError

BLIP = [
    "a woman in a red shirt and blue jeans walking down the street",
    "a woman in a red jacket and blue jeans with a black backpack from behind",
    "a lady wearing a red coat and jeans with a backpack, at night",
    "arafed man in a red top and black pants carrying a black backpack in front of a building",
    None,
]


def test_the_majority_describes_and_each_image_keeps_what_varies() -> None:
    found = find_consensus(BLIP)
    # Two say shirt or top and two jacket or coat: something red is worn above. Three say jeans, two of the four blue.
    assert found.description == "a woman wearing a red top and jeans and carrying a black backpack"
    assert found.circumstances == ["walking down the street", "from behind", "at night", "in front of a building", ""]


def test_the_share_that_must_agree_is_the_users() -> None:
    everybody = find_consensus(BLIP, agreement=1.0).description
    assert everybody == "a person wearing a red top and trousers"
    anybody = find_consensus(BLIP, agreement=0.0).description
    assert "black" in anybody and "shirt" not in everybody
    with pytest.raises(UserError, match="agreement"):
        find_consensus(BLIP, agreement=1.5)


def test_exactly_the_share_that_must_agree_is_not_more() -> None:
    """0.7 * 90 is less than 63."""
    for count, description in ((63, "a person"), (64, "a woman")):
        captions = ["a woman on a street"] * count + ["a street"] * (90 - count)
        assert find_consensus(captions, agreement=0.7).description == description


def test_order_does_not_matter() -> None:
    descriptions = {find_consensus(list(order)).description for order in itertools.permutations(BLIP)}
    assert len(descriptions) == 1


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_captions_that_say_the_same_are_kept_whole(copies: int) -> None:
    caption = (
        "a young man with short brown hair wearing a long green coat, grey trousers and boots and carrying a suitcase"
    )
    found = find_consensus([caption + ", seen from behind"] * copies)
    assert found.description == caption
    assert found.circumstances == ["seen from behind"] * copies


def test_a_description_describes_itself() -> None:
    """What is agreed on is said so that it can be read again."""
    for captions in (
        BLIP,
        ["a blonde girl in a dress and sandals"],
        ["a bald man in black"],
        ["a person in all white clothing"],
    ):
        description = find_consensus(captions).description
        assert find_consensus([description]).description == description


def test_one_odd_caption_of_the_color_captioner_changes_nothing() -> None:
    captions = ["a person wearing a navy top and grey trousers"] * 3
    odd = "a person wearing a black top and brown shorts, in the dark"
    found = find_consensus([*captions, odd])
    assert found.description == "a person wearing a navy top and grey trousers"
    assert found.circumstances == ["", "", "", "in the dark"]


def test_where_colors_differ_none_is_told() -> None:
    captions = [f"a person wearing a {color} top and black trousers" for color in ("red", "pink", "purple")]
    assert find_consensus(captions).description == "a person wearing a top and black trousers"


def test_two_colors_of_one_garment_are_both_told() -> None:
    captions = ["a person wearing a red and white top and navy trousers"] * 2 + [
        "a person wearing a red top and navy trousers"
    ]
    assert find_consensus(captions).description == "a person wearing a red and white top and navy trousers"


@pytest.mark.parametrize(
    ("captions", "description"),
    [
        ([], ""),
        ([None, None], ""),
        ([""], "a person"),
        (["a blurry photo", None], "a person"),
        (["a girl in a pink dress", "a girl in a pink dress", "a woman in a dress"], "a girl wearing a pink dress"),
        (["a kid with an orange bag"] * 3, "a child carrying an orange bag"),
        (["a woman with a ponytail"] * 2, "a woman with tied-back hair"),
        (["a man with no bag and a hat", "a man with a hat"], "a man wearing a hat"),
        (["a woman with hair"], "a woman"),
        (["a woman with her hair in a bun", "a woman with a bun"], "a woman with pinned-up hair"),
    ],
)
def test_edges(captions: list[str | None], description: str) -> None:
    found = find_consensus(captions)
    assert found.description == description
    assert len(found.circumstances) == len(captions)


def test_the_yield_counts_what_is_said() -> None:
    described = [
        find_consensus(["a man in a red shirt and jeans, at night"] * 2),
        find_consensus(["a woman with long hair wearing a blue dress, carrying a bag", None]),
    ]
    assert measure_yield(described) == {
        "upper garment": 1.0, "upper garment's color": 1.0, "lower garment": 1.0, "lower garment's color": 0.5,
        "hair": 0.5, "bag": 0.5, "circumstances": 0.5,
    }  # fmt: skip
    assert set(measure_yield([]).values()) == {0.0}
