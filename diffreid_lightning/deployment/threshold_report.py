"""Report decision thresholds: error rates with intervals as a table, a JSON file and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffreid_lightning.metrics.functional.verification import VerificationErrors

CONFIDENCE = 0.95
_FEW = 30  # errors below which a rate is hardly measured (Doddington's rule of 30)
_SAME, _OTHER, _LINE = "#2f7d4f", "#1f4e79", "#c2362b"
_ENDS = (50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE)  # percentiles


def describe_thresholds(errors: VerificationErrors, fmr: Sequence[float], fnmr: Sequence[float]) -> dict[str, Any]:
    """Return thresholds for wanted error rates as plain JSON values.

    Args:
        errors: the measured rates.
        fmr: wanted false match rates, 0 to 1.
        fnmr: wanted false non-match rates, 0 to 1.

    Returns:
        ``thresholds``: for each wanted rate the threshold, and both rates there with their intervals
        (``value``, ``low``, ``high``); ``equal_error_rate`` likewise; the numbers of identities and pairs.
    """
    others, points = int(errors.other.sum()), []
    wanted = [("fmr", rate, errors.at_fmr(rate)) for rate in fmr]
    for kind, rate, place in wanted + [("fnmr", rate, errors.at_fnmr(rate)) for rate in fnmr]:
        points.append(
            {
                "wanted": {kind: rate},
                "threshold": round(float(errors.thresholds[place]), 4),
                "fmr": _interval(errors.fmr[place], errors.resampled_fmr[:, place]),
                "fnmr": _interval(errors.fnmr[place], errors.resampled_fnmr[:, place]),
                "false_matches": round(errors.fmr[place] * others),
            }
        )
    threshold = round(float(errors.thresholds[errors.at_equal_errors()]), 4)
    return {
        "identities": errors.identities,
        "pairs": {"same_person": int(errors.same.sum()), "other_people": others},
        "across_cameras": errors.across_cameras,
        "confidence": CONFIDENCE,
        "equal_error_rate": {"threshold": threshold, "rate": _interval(*errors.equal_error_rate())},
        "thresholds": points,
    }


def _interval(value: float, resampled: npt.NDArray[np.float64]) -> dict[str, float]:
    low, high = np.nanpercentile(resampled, _ENDS)
    return {name: float(f"{each:.6g}") for name, each in (("value", value), ("low", low), ("high", high))}


def lay_out(found: Mapping[str, Any]) -> tuple[list[list[str]], str]:
    """Lay a report of :func:`describe_thresholds` out as rows of text, the headings first, and a note below them."""
    rows = [["wanted", "threshold", "false matches", "false non-matches"]]
    for point in found["thresholds"]:
        ((kind, rate),) = point["wanted"].items()
        few = " *" if point["false_matches"] < _FEW else ""
        rates = [_percent(point["fmr"]) + few, _percent(point["fnmr"])]
        rows.append([f"{kind.upper()} ≤ {100 * rate:g} %", f"{point['threshold']:.4f}", *rates])
    equal, pairs = found["equal_error_rate"], found["pairs"]
    rows.append(["equal errors", f"{equal['threshold']:.4f}", *[_percent(equal["rate"])] * 2])
    note = (
        f"{found['identities']} people, {pairs['same_person']:,} pairs of one person and {pairs['other_people']:,} of "
        f"two{' across cameras' * found['across_cameras']}; {100 * CONFIDENCE:g} % intervals over people"
    )
    if any(point["false_matches"] < _FEW for point in found["thresholds"]):
        note += f"\n* fewer than {_FEW} false matches: measure such a rate on more people"
    return rows, note


def _percent(rate: Mapping[str, float]) -> str:
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return f"{value:.3g} % [{low:.3g}, {high:.3g}]"


def draw_thresholds(errors: VerificationErrors, thresholds: Sequence[float], file: Path) -> None:
    """Draw the similarities of pairs and the error rates by threshold, with lines at some thresholds.

    Args:
        errors: the measured rates.
        thresholds: where to draw lines.
        file: output PNG.
    """
    from matplotlib.figure import Figure  # slow import; needs no display

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = np.flatnonzero(errors.same + errors.other)
    ends = errors.thresholds[seen[0]], errors.thresholds[seen[-1] + 1]
    least = 1 / errors.other.sum()
    for counts, rates, resampled, color, pairs, mistakes in (
        (errors.other, errors.fmr, errors.resampled_fmr, _OTHER, "other people", "false matches"),
        (errors.same, errors.fnmr, errors.resampled_fnmr, _SAME, "same person", "false non-matches"),
    ):
        label = f"{pairs} ({counts.sum():,} pairs)"
        bars = {"bins": 80, "range": ends, "density": True, "color": color, "alpha": 0.55}
        left.hist(errors.thresholds[:-1], weights=counts, label=label, **bars)
        bounds = np.nanpercentile(resampled, _ENDS, axis=0).clip(least / 2)
        right.fill_between(errors.thresholds, *bounds, color=color, alpha=0.2, linewidth=0)
        right.plot(errors.thresholds, np.where(rates > 0, rates, np.nan), color=color, label=mistakes)
    left.set_ylabel("density of pairs")
    left.set_yticks([])
    right.set_yscale("log")
    right.set_ylim(least, 1.3)
    right.set_ylabel("error rate")
    for place in (left, right):
        for number, threshold in enumerate(thresholds):
            name = None if number or place is left else "thresholds"
            place.axvline(threshold, color=_LINE, linewidth=1, linestyle=":", label=name)
        place.set_xlim(*ends)
        place.set_xlabel("cosine similarity")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.savefig(file, format="png", metadata={"Software": None})
