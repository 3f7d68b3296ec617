"""Report of decision thresholds: error rates with intervals as a table, a JSON file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffreid_lightning.metrics.functional.verification import VerificationErrors
from diffreid_lightning.storage.atomic import replace_file

_SAME, _OTHER, _LINE = "#2f7d4f", "#1f4e79", "#c2362b"
_FEW = 30  # errors below which a rate is hardly measured (Doddington's rule of 30)
_HISTOGRAM_BINS = 80


def describe_thresholds(
    errors: VerificationErrors, fmr: Sequence[float], fnmr: Sequence[float], confidence: float = 0.95
) -> dict[str, Any]:
    """Return thresholds for wanted error rates as plain JSON values.

    Args:
        errors: the measured rates.
        fmr: wanted false match rates, 0 to 1.
        fnmr: wanted false non-match rates, 0 to 1.
        confidence: of the intervals.

    Returns:
        ``operating_points``: for each wanted rate the threshold, and both rates there with their intervals
        (``value``, ``low``, ``high``); ``equal_error_rate`` likewise; the numbers of identities and pairs.
    """
    others = int(errors.other.sum())
    wanted = [("fmr", rate, errors.at_fmr(rate)) for rate in fmr]
    wanted += [("fnmr", rate, errors.at_fnmr(rate)) for rate in fnmr]
    points = []
    for kind, rate, place in wanted:
        point = {"wanted": {kind: rate}, **_rates_at(errors, place, confidence)}
        point["false_matches"] = round(errors.fmr[place] * others)
        points.append(point)
    rate, resampled = errors.equal_error_rate()
    equal = {"rate": _interval(rate, resampled, confidence)}
    return {
        "identities": errors.identities,
        "pairs": {"same_person": int(errors.same.sum()), "other_people": others},
        "across_cameras": errors.across_cameras,
        "confidence": confidence,
        "equal_error_rate": equal | {"threshold": _number(errors.thresholds[errors.at_equal_errors()])},
        "operating_points": points,
    }


def _rates_at(errors: VerificationErrors, place: int, confidence: float) -> dict[str, Any]:
    return {
        "threshold": _number(errors.thresholds[place]),
        "fmr": _interval(errors.fmr[place], errors.resampled_fmr[:, place], confidence),
        "fnmr": _interval(errors.fnmr[place], errors.resampled_fnmr[:, place], confidence),
    }


def _interval(value: float, resampled: npt.NDArray[np.float64], confidence: float) -> dict[str, float]:
    low, high = np.nanpercentile(resampled, [50 - 50 * confidence, 50 + 50 * confidence])
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def thresholds_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay the report of :func:`describe_thresholds` out as rows of text, the headings first."""
    rows = [["wanted", "threshold", "false matches", "false non-matches"]]
    for point in found["operating_points"]:
        ((kind, rate),) = point["wanted"].items()
        few = " *" if point["false_matches"] < _FEW else ""
        rates = [_percent(point["fmr"]) + few, _percent(point["fnmr"])]
        rows.append([f"{kind.upper()} ≤ {100 * rate:g} %", f"{point['threshold']:.4f}", *rates])
    equal = found["equal_error_rate"]
    rows.append(["equal error rate", f"{equal['threshold']:.4f}", *[_percent(equal["rate"])] * 2])
    return rows


def _percent(rate: Mapping[str, float]) -> str:
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return f"{value:.3g} % [{low:.3g}, {high:.3g}]"


def thresholds_footnote(found: Mapping[str, Any]) -> str:
    """Say what the numbers rest on, and which of them on little."""
    pairs, cameras = found["pairs"], " across cameras" if found["across_cameras"] else ""
    text = (
        f"{found['identities']} people, {pairs['same_person']:,} pairs of one person and {pairs['other_people']:,} of "
        f"two{cameras}; {100 * found['confidence']:g} % intervals over people"
    )
    few = any(point["false_matches"] < _FEW for point in found["operating_points"])
    return text + (f"\n* fewer than {_FEW} false matches: hold more people out for such a rate" if few else "")


def save_thresholds(found: Mapping[str, Any], errors: VerificationErrors, folder: Path) -> tuple[Path, Path]:
    """Write ``thresholds.json`` and ``thresholds.png``, and return their paths.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note, picture = folder / "thresholds.json", folder / "thresholds.png"
    with replace_file(note) as staged:
        staged.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    with replace_file(picture) as staged:
        _draw(found, errors, staged)
    return note, picture


def _draw(found: Mapping[str, Any], errors: VerificationErrors, file: Path) -> None:
    from matplotlib.figure import Figure  # slow import; needs no display

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = np.flatnonzero(errors.same + errors.other)
    low, high = errors.thresholds[seen[0]], errors.thresholds[seen[-1] + 1]
    middles = (errors.thresholds[:-1] + errors.thresholds[1:]) / 2
    for counts, color, label in ((errors.other, _OTHER, "other people"), (errors.same, _SAME, "same person")):
        name = f"{label} ({counts.sum():,} pairs)"
        shape = {"bins": _HISTOGRAM_BINS, "range": (low, high), "density": True}
        left.hist(middles, weights=counts, color=color, alpha=0.55, label=name, **shape)
    left.set_ylabel("density of pairs")
    left.set_yticks([])
    least = 1 / errors.other.sum()
    for rates, resampled, color, label in (
        (errors.fmr, errors.resampled_fmr, _OTHER, "false matches"),
        (errors.fnmr, errors.resampled_fnmr, _SAME, "false non-matches"),
    ):
        spread = 50 * found["confidence"]
        bounds = np.nanpercentile(resampled, [50 - spread, 50 + spread], axis=0)
        right.fill_between(errors.thresholds, *bounds.clip(least / 2), color=color, alpha=0.2, linewidth=0)
        right.plot(errors.thresholds, np.where(rates > 0, rates, np.nan), color=color, linewidth=1.5, label=label)
    right.set_yscale("log")
    right.set_ylim(least, 1.3)
    right.set_ylabel("error rate")
    for place in (left, right):
        for point in found["operating_points"]:
            place.axvline(point["threshold"], color=_LINE, linewidth=1, linestyle=":")
        place.set_xlim(low, high)
        place.set_xlabel("cosine similarity")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.savefig(file, format="png", metadata={"Software": None})
