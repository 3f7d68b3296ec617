"""Line charts: every point inside the frame, no peak lost."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from diffreid_lightning.report.line_chart import draw_lines


def points(svg: str) -> list[np.ndarray]:
    """Return the points of each line, (N, 2)."""
    found = re.findall(r'points="([^"]+)"', svg)
    return [np.array([[float(each) for each in pair.split(",")] for pair in text.split()]) for text in found]


@pytest.mark.parametrize("scale", [1e-7, 1.0, 3e9])
@pytest.mark.parametrize("seed", range(3))
def test_points_keep_their_order_and_stay_inside(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    steps, values = np.arange(40.0) * 25, scale * rng.normal(size=40)
    (line,) = points(draw_lines("loss", {"loss": (steps, values)}))
    assert line.shape == (40, 2) and (np.diff(line[:, 0]) > 0).all()
    assert line[:, 0].min() >= 0 and line[:, 0].max() <= 360 and line[:, 1].min() >= 0 and line[:, 1].max() <= 200
    slope = np.polyfit(values / scale, line[:, 1], 1)
    assert slope[0] < 0 and np.abs(np.polyval(slope, values / scale) - line[:, 1]).max() < 0.2, "linear, upwards"


def test_a_peak_among_many_points_is_drawn() -> None:
    values = np.zeros(100_000)
    values[54_321] = 1.0
    (line,) = points(draw_lines("loss", {"loss": (np.arange(100_000.0), values)}))
    assert len(line) <= 300
    assert line[:, 1].min() == points(draw_lines("x", {"x": (np.arange(2.0), np.array([0.0, 1.0]))}))[0][1, 1]


def test_ticks_are_whole_steps_and_their_texts_fit() -> None:
    figure = draw_lines("rate", {"rate": (np.array([5.0, 11.0]), np.array([1.25e-4, 8.75e-4]))})
    texts = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="(\w+)">([^<]+)<', figure)
    across = [text for x, anchor, text in texts if anchor == "middle"]
    assert across and all(text.isdigit() for text in across)
    up = [(float(x), text) for x, anchor, text in texts if anchor == "end"][:-1]
    assert len({text for _, text in up}) == len(up) and all(7 * len(text) < x for x, text in up), "7 pixels a digit"


def test_labels_are_escaped_and_values_that_are_not_finite_left_out() -> None:
    steps = np.arange(4.0)
    lines = {"<a&b>": (steps, np.array([1, np.nan, np.inf, 2.0])), "flat": (steps, np.full(4, 7.0))}
    figure = draw_lines('"loss"', lines)
    (root,) = ElementTree.fromstring(figure).iter("svg")
    assert root.attrib["aria-label"].startswith('"loss", <a&b>: from 1 at step 0 to 2 at step 3, between 1 and 2; flat')
    assert [len(line) for line in points(figure)] == [2, 4]
    assert {"<a&b>", "flat"} <= {text.text for text in root if text.tag == "text"}
