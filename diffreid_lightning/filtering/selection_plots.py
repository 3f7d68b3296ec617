"""Plot a selection: score histograms, sheets of kept and rejected images, near-copies with their originals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from diffreid_lightning.filtering.rules import Selection, SelectionRule
from diffreid_lightning.filtering.scored_manifest import NEAREST, NEAREST_SOURCE, REAL_DISTANCE, ScoredFolder
from diffreid_lightning.visualization.grid import draw_samples, side_by_side, spread

_RANGES = {"confidence": (0.0, 1.0), "similarity": (-1.0, 1.0), "margin": (-2.0, 2.0), "consistency": (0.0, 1.0)}
_CELL = (64, 128)  # width and height in pixels
_COLUMNS = 12
_KEPT, _REJECTED = "#2f7d4f", "#b9c0c7"


def save_histogram(selection: Selection, rules: Sequence[SelectionRule], file: Path) -> None:
    """Draw stacked histograms of the scores of kept and rejected generated images, with the rules' thresholds as lines.

    A threshold beyond the axis, which keeps or rejects all, has no line.

    Args:
        selection: after the rules.
        rules: the applied rules.
        file: output PNG.
    """
    from matplotlib.figure import Figure  # slow import; needs no display

    names = [name for name in _RANGES if name in selection.manifest.columns]
    figure = Figure(figsize=(4.4 * len(names), 3.2), dpi=120, layout="constrained")
    cuts = [rule.cut for rule in rules if rule.cut is not None]
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        values = selection.manifest.numpy(name)
        scored = ~np.isnan(values) & selection.generated
        low, high = _range_of(name, values[scored])
        groups = [values[scored & selection.kept], values[scored & ~selection.kept]]
        labels = [f"kept ({len(groups[0]):,})", f"rejected ({len(groups[1]):,})"]
        axes.hist(groups, bins=40, range=(low, high), stacked=True, color=[_KEPT, _REJECTED], label=labels)
        for cut_name, threshold in cuts:
            if cut_name == name and low <= threshold <= high:
                axes.axvline(threshold, color="#c2362b", linewidth=1.5, label=f"threshold {threshold:g}")
        axes.set_xlabel(name)
        axes.locator_params(axis="x", nbins=6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)  # above, on no bar
    figure.axes[0].set_ylabel("images")
    figure.savefig(file, metadata={"Software": None})


def draw_kept(selection: Selection) -> Image.Image | None:
    """Draw up to 72 kept images, evenly spaced by descending score; None if none can be drawn."""
    rows = np.flatnonzero(selection.kept)
    name, values = _first_score(selection)
    rows = rows[np.argsort(-values[rows], kind="stable")]
    chosen = rows[spread(len(rows), 6 * _COLUMNS)]
    lines = []
    for part in np.split(chosen, range(_COLUMNS, len(chosen), _COLUMNS)):
        images = [image for row in part.tolist() if (image := _picture(selection, row)) is not None]
        if images:
            lines.append((f"{name} {values[part[0]]:.3f} to {values[part[-1]]:.3f}", images))
    return draw_samples(lines) if lines else None


def draw_rejected(selection: Selection, reasons: Iterable[str]) -> Image.Image | None:
    """Draw rejected images, a line for each of the most frequent reasons; None if none can be drawn.

    Args:
        selection: after the rules.
        reasons: reasons to draw; each broken file may have its own.
    """
    _, values = _first_score(selection)
    given = selection.reasons
    counts = selection.count_reasons()
    lines = []
    for reason in sorted(counts.keys() & set(reasons), key=lambda text: (-counts[text], text)):
        rows = np.flatnonzero(np.asarray(pc.equal(given, reason)) & ~selection.kept)
        rows = rows[np.argsort(-np.nan_to_num(values[rows], nan=-np.inf), kind="stable")]
        if not len(rows):
            continue
        chosen = rows[spread(len(rows), _COLUMNS)]
        images = [image for row in chosen.tolist() if (image := _picture(selection, row)) is not None]
        if images:
            lines.append((f"{reason} ({len(rows):,})", images))
        if len(lines) == 8:
            break
    return draw_samples(lines) if lines else None


def draw_nearest_real(scored: ScoredFolder, rows: npt.NDArray[np.int64]) -> Image.Image | None:
    """Draw generated images, each beside its nearest real image.

    Args:
        scored: the scored images.
        rows: rows to draw, the nearest first.

    Returns:
        The sheet; None if the real images are not on this machine.
    """
    table = scored.manifest.table.take(rows).select(["file_name", NEAREST, NEAREST_SOURCE, REAL_DISTANCE])
    lines = []
    for row in table.to_pylist():
        made, _ = scored.manifest.images.image_or_reason(row["file_name"])
        real = scored.real_image(row[NEAREST_SOURCE], row[NEAREST])
        if made is not None and real is not None:
            pair = [image.resize(_CELL, Image.Resampling.BICUBIC) for image in (made, real)]
            lines.append((f"{row[REAL_DISTANCE]:.4f}", pair))
    return side_by_side([draw_samples([line]) for line in lines]) if lines else None


def _range_of(name: str, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the full range of a probability, and the observed range of a cosine."""
    if _RANGES[name] == (0, 1) or not len(values):
        return _RANGES[name]
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else _RANGES[name]


def _first_score(selection: Selection) -> tuple[str, npt.NDArray[np.float64]]:
    name = next(name for name in _RANGES if name in selection.manifest.columns)
    return name, selection.manifest.numpy(name)


def _picture(selection: Selection, row: int) -> Image.Image | None:
    image, _ = selection.manifest.images.image_or_reason(selection.manifest.table["file_name"][row].as_py())
    return None if image is None else image.resize(_CELL, Image.Resampling.BICUBIC)
