"""Draw line charts as inline SVG, colored by the style sheet of the page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from diffreid_lightning.metric_history import Curve
from diffreid_lightning.report.blocks import block

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 348, 10, 172  # edges of the plot
_WIDTH, _HEIGHT, _ROW = 360, 200, 15  # of the whole without its legend, and of a line of the legend
_POINTS = 300  # of a line; more are reduced to the extremes of their neighborhood
MOST_LINES = 6  #: colors of the style sheet


def draw_lines(title: str, lines: Mapping[str, Curve]) -> Markup:
    """Draw lines over the training step, as a figure.

    Args:
        title: name of the value.
        lines: at most six lines by label, each with at least one finite value; a single label is not shown.
    """
    from matplotlib.ticker import MaxNLocator  # slow import

    finite = {label: (steps[sound := np.isfinite(values)], values[sound]) for label, (steps, values) in lines.items()}
    steps, values = (np.concatenate([line[axis] for line in finite.values()]) for axis in (0, 1))
    across, up = (
        np.asarray(MaxNLocator(5, integer=whole).tick_values(each.min(), each.max()))
        for each, whole in ((steps, True), (values, False))
    )
    legend = finite if len(finite) > 1 else {}
    label = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">')
    parts = [label.format(_WIDTH, _HEIGHT + _ROW * len(legend), describe_lines(title, finite))]
    for tick, y in zip(up, _place(up, up, _BOTTOM, _TOP), strict=True):
        parts.append(Markup(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'))
        parts.append(Markup(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>'))
    for tick, x in zip(across, _place(across, across, _LEFT, _RIGHT), strict=True):
        anchor = "end" if tick == across[-1] else "middle"
        parts.append(Markup(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="{anchor}">{tick:,.6g}</text>'))
    for number, line in enumerate(finite.values()):
        xs, ys = _thin(line)
        pairs = zip(_place(xs, across, _LEFT, _RIGHT), _place(ys, up, _BOTTOM, _TOP), strict=True)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
        parts.append(Markup(f'<polyline class="line s{number}" points="{points}"/>'))
    for number, name in enumerate(legend):
        y = _HEIGHT + _ROW * number
        parts.append(Markup(f'<path class="line s{number}" d="M{_LEFT} {y}h30"/>'))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(_LEFT + 38, y + 4, name[-44:]))
    return block("figure", Markup("").join([*parts, Markup("</svg>")]), f"{title} over the step")


def describe_lines(title: str, lines: Mapping[str, Curve]) -> str:
    """Describe lines in words: first and last value, and the extremes."""
    texts = [
        f"{label + ': ' if len(lines) > 1 else ''}from {values[0]:.4g} at step {steps[0]:,.0f} to {values[-1]:.4g} at "
        f"step {steps[-1]:,.0f}, between {values.min():.4g} and {values.max():.4g}"
        for label, (steps, values) in lines.items()
    ]
    return f"{title}, {'; '.join(texts)}"


def _place(values: npt.NDArray[np.float64], ticks: npt.NDArray[np.float64], start: int, end: int) -> list[float]:
    return list(start + (values - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start))


def _thin(line: Curve) -> Curve:
    """Keep the smallest and largest value of each of 150 neighborhoods, so that no peak is lost."""
    steps, values = line
    if len(values) <= _POINTS:
        return line
    groups = np.array_split(np.arange(len(values)), _POINTS // 2)
    extremes = [group[at] for group in groups for at in (values[group].argmin(), values[group].argmax())]
    return steps[np.unique(extremes)], values[np.unique(extremes)]
