"""Draw quality against seconds per image for every diversity strategy, sampler and number of steps.

    python -m experiments.generator.strategies --root runs/tour --threads 1

People, noise, requests and judges are those of :mod:`experiments.generator.guidance`, and the same under every setting;
guidance is that of ``stages/generate``: scale 4 in the first 75 % of the steps. KID has a 95 % interval over people, by
the jackknife. Differences from the default setting are paired by person, with intervals of the same kinds. As asked is
the mean share of the requested views, grounds, walls and lights that a reader reads; in brackets what it would read if
the images had been asked for each other's attributes. The reader is the one that captions the chain's real images,
unless ``--reader`` names another. Finished settings are read, so that a killed run goes on where it was. What was
measured lies in ``experiments/generator/results``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffreid_lightning.captioning.attribute_network import TINY_READER, AttributeNetwork
from diffreid_lightning.captioning.reader_captioner import reader_folder
from experiments.generator.guidance import STRATEGIES, Setting, add_options, measure, measure_setting, open_bench
from experiments.generator.tiny_sd import kernel_distances
from experiments.instruments.over_people import bootstrap, jackknife
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script

STEPS = (12, 8, 4, 20, 6)
"""Numbers of steps, the default's first: a run that is stopped early has it."""

SAMPLERS = ("UniPCMultistepScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler")
DEFAULT = Setting(end=0.75)
_BY_PERSON = ("shares", "kid_without")
_HEADS = (
    "strategy", "sampler", "steps", "evaluations", "s / image", "recognized, %", "to the default", "KID x 1000",
    "to the default", "Vendi", "as asked, %",
)  # fmt: skip
_PANELS = (
    ("recognized, %", "recognized", 100),
    ("KID × 1000 (lower: nearer to real images)", "kid", 1000),
    ("Vendi score (higher: more variety)", "vendi", 1),
)
_COLORS = ("#000000", "#888888", "#d55e00", "#e69f00", "#009e73", "#0072b2", "#56b4e9", "#cc79a7")
_MARKERS = {DEFAULT.scheduler: "o", **dict(zip(SAMPLERS, "s^v", strict=True))}

Row = dict[str, Any]


def settings() -> list[Setting]:
    """Return every strategy, and every other sampler under the default one, at every number of steps."""
    kinds = [replace(DEFAULT, strategy=name) for name in STRATEGIES]
    kinds += [replace(DEFAULT, scheduler=name) for name in SAMPLERS]
    return [replace(kind, steps=steps) for steps in STEPS for kind in kinds]


def compare(row: Row, base: Row) -> Row:
    """Add the differences from another setting of the same people, each with its 95 % interval; drop single people."""
    shares = np.subtract(row["shares"], base["shares"])
    distance, without = row["kid"] - base["kid"], np.subtract(row["kid_without"], base["kid_without"])
    found = {name: value for name, value in row.items() if name not in _BY_PERSON}
    found["recognized_difference"] = [float(shares.mean()), *bootstrap(shares)]
    found["kid_difference"] = [distance, *jackknife(distance, without)]
    return found


def draw_picture(rows: Sequence[Row], file: Path) -> None:
    """Draw three panels against the seconds per image; the points of a strategy are joined along its steps."""
    from matplotlib.figure import Figure  # slow import; needs no display
    from matplotlib.ticker import LogLocator

    colors = dict(zip(STRATEGIES, _COLORS, strict=False))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"]["strategy"], row["setting"]["scheduler"]), []).append(row)
    figure = Figure(figsize=(13, 5.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    for axis, (title, name, factor) in zip(axes, _PANELS, strict=True):
        for (strategy, scheduler), points in groups.items():
            own = scheduler == DEFAULT.scheduler
            points.sort(key=lambda row: row["setting"]["steps"])
            axis.plot(
                [row["seconds"] for row in points], [factor * row[name] for row in points], markersize=5, linewidth=1.3,
                color=colors[strategy], marker=_MARKERS[scheduler], linestyle="-" if own else ":",
                markerfacecolor=colors[strategy] if own else "white",
                label=strategy if own else f"{strategy}, {scheduler.removesuffix('Scheduler')}",
            )  # fmt: skip
        for row in rows:
            if row["setting"] == asdict(DEFAULT):
                style: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": "#000000", "linewidths": 1.3}
                label = f"the default, {DEFAULT.steps} steps"
                axis.scatter(row["seconds"], factor * row[name], label=label, **style)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("seconds per image, one core", fontsize=9)
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(file, format="png", metadata={"Software": None})


def run(given: argparse.Namespace) -> None:
    """Measure every setting and write table, numbers and picture."""
    bench = open_bench(given, AttributeNetwork.load(given.reader))
    measured: dict[Setting, Row] = {}
    for setting in settings():
        measured[setting] = measure_setting(bench, setting)
        row = compare(measured[setting], measured[DEFAULT])
        print(" | ".join(_cells(row)), flush=True)
    kinds = settings()[: len(STRATEGIES) + len(SAMPLERS)]
    ordered = [replace(kind, steps=steps) for kind in kinds for steps in sorted(STEPS)]
    rows = [compare(measured[setting], measured[DEFAULT]) for setting in ordered]
    real = measure(bench.people, bench.judges)
    others = kernel_distances(bench.judges.features, bench.judges.real, {"val": bench.held_out})["val"]["mean"]
    text = table(f"{rows[0]['images']} images of {len(real['shares'])} people", _HEADS, [_cells(row) for row in rows])
    text += f"\n\nReal images: recognized {100 * real['recognized']:.1f} %, Vendi {real['vendi']:.2f}; "
    text += f"KID x 1000 of other people's real images {1000 * others:.0f}."
    print(text)
    (given.work / "strategies.md").write_text(text + "\n", encoding="utf-8")
    kept = {"recognized": real["recognized"], "vendi": real["vendi"], "kid_of_others": others}
    write_json(given.work / "strategies.json", {"people": len(real["shares"]), "real": kept, "settings": rows})
    draw_picture(rows, given.work / "strategies.png")


def _cells(row: Row) -> list[str]:
    setting, asked = row["setting"], list(row["as_asked"].values())
    return [
        setting["strategy"],
        setting["scheduler"].removesuffix("Scheduler"),
        str(setting["steps"]),
        str(row["evaluations"]),
        f"{row['seconds']:.3f}",
        _interval(row["recognized"], row["interval"], 100, 1),
        _difference(row["recognized_difference"], 100, 1),
        _interval(row["kid"], row["kid_interval"], 1000, 0),
        _difference(row["kid_difference"], 1000, 0),
        f"{row['vendi']:.2f}",
        "{:.0f} ({:.0f})".format(*100 * np.mean(asked, axis=0)) if asked else "",
    ]


def _interval(value: float, ends: Sequence[float], factor: float, digits: int) -> str:
    low, high = (f"{factor * end:.{digits}f}" for end in ends)
    return f"{factor * value:.{digits}f} ({low} to {high})"


def _difference(values: Sequence[float], factor: float, digits: int) -> str:
    mean, low, high = (f"{factor * value:+.{digits}f}" for value in values)
    return f"{mean} ({low} to {high})"


def main(argv: list[str] | None = None) -> int:
    """Measure every strategy, sampler and number of steps."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.strategies", description=__doc__.split("\n")[0]
    )
    add_options(parser, "runs/experiments/strategies")
    parser.add_argument("--reader", type=Path, default=reader_folder(TINY_READER), help="folder of a trained reader")
    return run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
