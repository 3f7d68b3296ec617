"""Draw intervals in rows, a panel for each column: differences beside each other, with a line at zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAX_COLUMNS = 4  # panels side by side
_INK, _LINE, _DOT = "#1f4e79", "#b9c0c7", "#7a93ab"


@dataclass(frozen=True)
class IntervalMark:
    """An interval in a panel.

    Args:
        mean: its middle.
        low: lower end; NaN draws the mean alone.
        high: upper end.
        values: single measurements, drawn as dots.
    """

    mean: float
    low: float
    high: float
    values: Sequence[float] = ()


def save_intervals(
    panels: Mapping[str, Mapping[str, IntervalMark]], rows: Sequence[str], axis: str, file: Path, title: str = ""
) -> None:
    """Draw panels that share their rows.

    Args:
        panels: bars by row, by title of the panel; at least one.
        rows: all rows from the top down; a panel without a bar for one leaves its place empty.
        axis: text below the panels.
        file: output PNG.
        title: text above all of them.
    """
    from matplotlib.figure import Figure  # slow import; needs no display

    columns = min(_MAX_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    size = (2.2 + 2.6 * columns, 0.9 + lines * (0.8 + 0.32 * len(rows)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).reshape(-1)
    for panel, (name, bars) in zip(axes, panels.items(), strict=False):
        panel.axvline(0, color=_LINE, linewidth=1)
        for number, row in enumerate(rows):
            if row in bars:
                _draw(panel, bars[row], number)
        panel.set_title(name, fontsize=9)
        panel.set_yticks(range(len(rows)), rows, fontsize=9)
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    figure.supxlabel(axis, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(file, format="png", metadata={"Software": None})


def _draw(panel: Any, bar: IntervalMark, number: int) -> None:
    if not math.isnan(bar.low):
        panel.plot([bar.low, bar.high], [number, number], color=_INK, linewidth=2)
    heights = [number + 0.22] * len(bar.values)
    panel.plot(bar.values, heights, ".", color=_DOT, markersize=4)
    panel.plot([bar.mean], [number], "o", color=_INK, markersize=5)
