"""Other filters than the one the rows were made with, on the held-out people: does one make pre-training better?

    python -m experiments.evidence.filters --pipeline PIPELINE --work WORK

At 30 % few-shot, with as many generated images as the rows have, under the settings that were chosen; query and gallery
are not read. Every filter is compared with none, seed by seed. Those that may take their pick of twice as many images
tell whether a filter helps when it costs no images. Needs a work folder of ``python -m experiments.evidence``, or one
with its ``settings.json``, and goes on in it. What it prints is kept there, in ``filters.md``.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.runner import lock_folder
from experiments.evidence import settings as frozen
from experiments.evidence.__main__ import Evidence
from experiments.evidence.outcomes import val_curve
from experiments.evidence.plan import Plan
from experiments.evidence.rows import FEW, Row, Work, pretrained_on
from experiments.evidence.settings import Settings
from experiments.evidence.stages import Share, Stages, class_words
from experiments.evidence.statistics import paired
from experiments.instruments.report import table
from experiments.instruments.script import run_script

NONE = "none"
_EQUAL = "experiments.evidence.selection.EqualCount"


class Filter(NamedTuple):
    """A way of choosing among generated images.

    Args:
        rules: as ``select`` takes them.
        times: how many times the rows' number of images it chooses from.
    """

    rules: Callable[[Stages, Settings], list[str]]
    times: int = 1


def _threshold(least: float, *, with_floor: bool) -> Filter:
    def rules(stages: Stages, settings: Settings) -> list[str]:
        floor = stages.plan.floor if with_floor else 0
        return [class_words("ThresholdWithFloorAndCap", {"threshold": least, "floor": floor})]

    return Filter(rules)


def _picked(order: str, score: str = "confidence") -> Filter:
    def rules(stages: Stages, settings: Settings) -> list[str]:
        return [class_words(_EQUAL, {"images": stages.plan.images_per_identity, "order": order, "score": score})]

    return Filter(rules, times=2)


FILTERS = {
    NONE: Filter(lambda stages, settings: []),
    "that of the rows": Filter(Stages.filter_rules),
    "confidence of 0.1, at least two of each person": _threshold(0.1, with_floor=True),
    "confidence of 0.3, at least two of each person": _threshold(0.3, with_floor=True),
    "confidence of 0.1": _threshold(0.1, with_floor=False),
    "confidence of 0.3": _threshold(0.3, with_floor=False),
    "the half with the best confidence, of twice as many": _picked("best"),
    "the half with the best margin, of twice as many": _picked("best", "margin"),
    "any half, of twice as many": _picked("random"),
}


class Filters:
    """Measures filters in a work folder.

    Args:
        evidence: the comparison.
        seeds: of the trainings; others than those of the rows, and than those that settings were chosen with.
    """

    def __init__(self, evidence: Evidence, seeds: Sequence[int]) -> None:
        self.evidence = evidence
        self.seeds = seeds
        chosen, _ = frozen.load(evidence.settings_file, evidence.made_for)
        self.work = Work(evidence.stages, chosen, None, evidence.plan.images_per_identity)

    def dataset(self, name: str) -> Path:
        """Return what a filter leaves."""
        stages, chosen, plan = self.work.stages, self.work.settings, self.evidence.plan
        found = FILTERS[name]
        scored = stages.scored(FEW, "full", chosen.prior_weight, found.times * plan.images_per_identity)
        return stages.selected(FEW, scored, found.rules(stages, chosen))

    def measure(self, name: str, seed: int) -> float:
        """Return the mAP on the held-out people, in per cent, after pre-training and fine-tuning."""

        def start(work: Work, share: Share, seed: int) -> str:
            return pretrained_on(self.dataset(name), work, share, seed, "filters")

        return val_curve(Row("filters", start).tuned(self.work, FEW, seed, test=False))[-1][1]

    def run(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Measure filters with every seed."""
        at_once = self.evidence.at_once
        at_once(functools.partial(self.dataset, name) for name in names)
        found = at_once(functools.partial(self.measure, name, seed) for seed in self.seeds for name in names)
        return {name: found[place :: len(names)] for place, name in enumerate(names)}

    def table(self, found: dict[str, list[float]]) -> str:
        """One line for each filter."""
        lines = []
        for name, values in found.items():
            kept = Manifest.read(self.dataset(name))
            beside = "" if name == NONE or NONE not in found else str(paired(values, found[NONE]))
            people = len(kept.identities()[1])
            lines.append((name, f"{len(kept):,}", people, f"{statistics.fmean(values):.1f}", beside))
        heads = ("filter", "images", "people", "mAP of val", "against none")
        seeds = f"Seeds {', '.join(map(str, self.seeds))}, on {self.evidence.outcomes_made_for['device']}"
        caption = f"{seeds}; differences seed by seed with 95 % intervals, over training."
        return table("Filters, on the held-out people", heads, lines) + "\n\n" + caption


def _run(given: argparse.Namespace) -> None:
    evidence = Evidence(Plan(), given.pipeline, None, given.work, given.jobs)
    filters = Filters(evidence, given.seeds)
    with lock_folder(given.work):
        evidence.claim()
        text = filters.table(filters.run(list(FILTERS)))
        (given.work / "filters.md").write_text(text + "\n", encoding="utf-8")
        print(text)


def main(args: list[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Other filters, on the held-out people.")
    parser.add_argument("--pipeline", type=Path, required=True, help="folder of the text-to-image model")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments/evidence"), help="that of the comparison")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24], help="of the trainings")
    parser.add_argument("--jobs", type=int, default=2, help="commands at once, of one thread each")
    parser.add_argument("--threads", type=int, default=1, help="of this process")
    return run_script(_run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
