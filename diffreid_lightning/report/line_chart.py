"""Line charts as inline SVG, colored by the style sheet of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from diffreid_lightning.report.blocks import Chart

Line = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  #: steps and values, (N,) each

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 28
_POINTS = 300  # of a line; more are reduced to the extremes of their neighborhood
_ROW = 15  # pixels of a line of the legend
MOST_LINES = 6  #: colors of the style sheet


def draw_lines(title: str, lines: Mapping[str, Line]) -> Chart:
    """Draw lines over the training step.

    Args:
        title: name of the value.
        lines: at most six lines by label, each with at least one finite value; a single label is not shown.
    """
    finite = {label: _finite(line) for label, line in lines.items()}
    steps = np.concatenate([line[0] for line in finite.values()])
    values = np.concatenate([line[1] for line in finite.values()])
    across, up = _ticks(steps.min(), steps.max()), _ticks(values.min(), values.max())
    height = _HEIGHT + (_ROW * len(finite) if len(finite) > 1 else 0)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(describe_lines(title, finite))}">',
    ]
    for tick in up:
        y = _scale(tick, up, _HEIGHT - _BOTTOM, _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in across:
        x = _scale(tick, across, _LEFT, _WIDTH - _RIGHT)
        anchor = "end" if tick == across[-1] else "middle"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="{anchor}">{tick:,.6g}</text>')
    for number, (label, line) in enumerate(finite.items()):
        xs, ys = _thin(line)
        points = " ".join(
            f"{_scale(x, across, _LEFT, _WIDTH - _RIGHT):.1f},{_scale(y, up, _HEIGHT - _BOTTOM, _TOP):.1f}"
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True)
        )
        parts.append(f'<polyline class="line s{number}" points="{points}"/>')
        if len(finite) > 1:
            y = _HEIGHT + _ROW * number
            parts.append(f'<path class="line s{number}" d="M{_LEFT} {y}h30"/>')
            parts.append(f'<text x="{_LEFT + 38}" y="{y + 4}">{escape(label[:44])}</text>')
    return Chart("".join([*parts, "</svg>"]), f"{title} over the step")


def describe_lines(title: str, lines: Mapping[str, Line]) -> str:
    """Describe lines in words: first and last value, and the extremes."""
    texts = [
        f"{label + ': ' if len(lines) > 1 else ''}from {values[0]:.4g} at step {steps[0]:,.0f} to {values[-1]:.4g} at "
        f"step {steps[-1]:,.0f}, between {values.min():.4g} and {values.max():.4g}"
        for label, (steps, values) in lines.items()
    ]
    return f"{title}, {'; '.join(texts)}"


def _finite(line: Line) -> Line:
    steps, values = line
    sound = np.isfinite(values)
    return steps[sound], values[sound]


def _thin(line: Line) -> Line:
    """Keep the smallest and largest value of each of 150 neighborhoods, so that no peak is lost."""
    steps, values = line
    if len(values) <= _POINTS:
        return line
    groups = np.array_split(np.arange(len(values)), _POINTS // 2)
    rows = np.unique(
        [row for group in groups for row in (group[values[group].argmin()], group[values[group].argmax()])]
    )
    return steps[rows], values[rows]


def _ticks(low: float, high: float) -> Sequence[float]:
    """Return 3 to 7 round numbers around a range."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _scale(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)
