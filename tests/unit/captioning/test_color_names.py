"""Color words for colors everybody would call so, in white and in tinted light."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from diffreid_lightning.captioning.color_names import COLORS, lab_in_neutral_light, lab_of, name_colors

# CSS colors by the word they are called by; none of them is used by the package.
CALLED = {
    "black": ["black", "#1c1c1c"],
    "white": ["white", "whitesmoke", "snow"],
    "grey": ["grey", "dimgrey", "slategrey"],
    "red": ["red", "firebrick", "crimson", "darkred"],
    "orange": ["darkorange", "orange"],
    "yellow": ["yellow", "gold"],
    "green": ["green", "forestgreen", "limegreen", "seagreen"],
    "teal": ["darkcyan", "lightseagreen", "teal"],
    "blue": ["blue", "royalblue", "dodgerblue", "steelblue"],
    "navy": ["navy", "midnightblue"],
    "purple": ["purple", "rebeccapurple", "darkviolet"],
    "pink": ["hotpink", "lightpink", "palevioletred"],
    "brown": ["saddlebrown", "#5c4033", "#7b4a21"],
    "beige": ["tan", "wheat", "burlywood"],
}


def pixels(color: str) -> np.ndarray:
    return np.full((4, 4, 3), ImageColor.getrgb(color)[:3], np.uint8)


@pytest.mark.parametrize(("word", "color"), [(word, color) for word, names in CALLED.items() for color in names])
def test_a_color_has_the_name_everybody_gives_it(word: str, color: str) -> None:
    named = name_colors(lab_of(pixels(color)))
    assert {COLORS[number] for number in named.ravel()} == {word}


def test_every_word_is_tried() -> None:
    assert set(CALLED) == set(COLORS)


def test_lab_is_that_of_published_values() -> None:
    """The primaries' values as published with sRGB (D65, 2 degrees)."""
    published = {
        "#ff0000": (53.24, 80.09, 67.20),
        "#00ff00": (87.73, -86.18, 83.18),
        "#0000ff": (32.30, 79.19, -107.86),
    }
    for color, expected in published.items():
        assert np.allclose(lab_of(pixels(color))[0, 0], expected, atol=0.05)
    assert np.allclose(lab_of(pixels("white"))[0, 0], (100, 0, 0), atol=0.05)


def test_any_color_has_a_name() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1).reshape(-1, 1, 3)
    assert set(np.unique(name_colors(lab_of(grid)))) == set(range(len(COLORS)))


@pytest.mark.parametrize("tint", [(1.0, 0.85, 0.6), (0.5, 0.75, 1.0), (0.35, 0.35, 0.35)])
def test_a_tinted_or_dim_lamp_changes_few_names(tint: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    scene = np.kron(
        rng.choice(np.array([[200] * 3, [120] * 3, [60, 90, 160], [170, 40, 40]]), (8, 4)), np.ones((4, 4, 1))
    )
    light = (scene / 255) ** 2.2 * np.asarray(tint)
    lit = np.round(255 * light ** (1 / 2.2)).astype(np.uint8)
    truth = name_colors(lab_in_neutral_light(scene.astype(np.uint8)))
    unmoved = (name_colors(lab_of(lit)) == truth).mean()
    corrected = (name_colors(lab_in_neutral_light(lit)) == truth).mean()
    assert corrected >= max(unmoved, 0.8)
