"""The tables: rows beside each other, differences over seeds, how soon scratch is caught up with, the goals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.evidence.outcomes import Outcome
from experiments.evidence.plan import LARGE, Plan
from experiments.evidence.rows import FEW, FULL, ROWS
from experiments.evidence.settings import Trial
from experiments.evidence.stages import Share, named
from experiments.evidence.statistics import Estimate, paired, reached
from experiments.instruments.report import table

#: by row label, one outcome per seed in the order of the seeds
Outcomes = Mapping[str, Sequence[Outcome]]
_LARGE_FULL = "large: Diff-Person"
_CAPTION = (
    "Renders, not Market-1501: the table shows the mechanism. mAP and Rank-1 on query and gallery, means of {seeds} "
    "seeds; differences in mAP seed by seed with 95 % intervals (Student). One subset and one set of generated "
    "images: the intervals are over training. Rows marked large have {large} at 96 x 48 pixels, the others a "
    "network of 0.4 million parameters at 64 x 32; rows compare within one network. Of the small rows, those with a "
    'first training have it equally long, "real images, as long" too; no large row trains on real images for as long '
    "as Diff-Person and fine-tuning together."
)


class Goal(NamedTuple):
    """Something that is hoped for: that the first row is so much above the second, in mAP."""

    words: str
    first: str
    second: str
    share: Share
    least: float = 0.0

    def verdict(self, found: Estimate) -> str:
        """Return the verdict on a difference; undecided if its interval holds both signs, or is missing."""
        return "yes" if found.low > self.least else "no" if found.high < self.least else "undecided"


GOALS = (
    Goal("full beats scratch by at least 5 mAP", FULL, "scratch", FEW, 5.0),
    Goal("full beats real images, as long", FULL, "real images, as long", FEW),
    Goal("full is not worse than scratch on all images, but for 1 mAP", FULL, "scratch", None, -1.0),
    *(
        Goal(f"full beats {label}", FULL, label, FEW)
        for label in ("frozen base, consensus prompt", "without LPE", "without DI", "unfiltered")
    ),
    Goal("top-scored beats random", "top-scored", "random", FEW),
    Goal("random beats bottom-scored", "random", "bottom-scored", FEW),
)


def rows_table(subset: str, outcomes: Outcomes) -> str:
    """Every row of a share with its distance to scratch and to the full method, within its network.

    Args:
        subset: what is fine-tuned on, in words.
        outcomes: of each row.
    """
    lines = []
    for label, found in outcomes.items():
        references = ("large: ImageNet", _LARGE_FULL) if ROWS[label].backbone == LARGE else ("scratch", FULL)
        beside = [
            ""
            if reference == label or reference not in outcomes
            else str(paired(maps(found), maps(outcomes[reference])))
            for reference in references
        ]
        rank1 = statistics.fmean(outcome.rank1 for outcome in found)
        lines.append((label, f"{statistics.fmean(maps(found)):.1f}", f"{rank1:.1f}", *beside))
    heads = ("starts from", "mAP", "Rank-1", "against scratch (large: ImageNet)", "against Diff-Person, same network")
    seeds = len(next(iter(outcomes.values())))
    return table(f"Fine-tuned on {subset}", heads, lines) + "\n\n" + _CAPTION.format(seeds=seeds, large=LARGE)


def convergence_table(outcomes: Outcomes) -> str:
    """Epochs until the held-out identities are found as well as at the end of training from scratch."""
    lines = []
    for label, found in outcomes.items():
        baseline = outcomes.get("large: scratch" if ROWS[label].backbone == LARGE else "scratch")
        if baseline is None:
            continue
        pairs = zip(found, baseline, strict=True)
        epochs = [reached(own.curve, scratch.curve[-1][1]) for own, scratch in pairs]
        there = [epoch for epoch in epochs if epoch is not None]
        median = f"{statistics.median(there):g}" if there else "never"
        lines.append((label, f"{len(there)} of {len(epochs)}", median, found[0].curve[-1][0]))
    heads = ("starts from", "seeds that reach it", "after epochs (median)", "epochs of the run")
    return table("Epochs of fine-tuning until scratch's final mAP on the held-out identities", heads, lines)


def goals_table(outcomes: Mapping[Share, Outcomes]) -> str:
    """Set the goals beside the measured differences."""
    lines = []
    for goal in GOALS:
        rows = outcomes.get(goal.share, {})
        if not {goal.first, goal.second} <= set(rows):
            continue
        found = paired(maps(rows[goal.first]), maps(rows[goal.second]))
        lines.append((f"{goal.words} ({named(goal.share)})", str(found), goal.verdict(found)))
    return table("Goals", ("goal", "difference in mAP over seeds of training", "holds"), lines)


def choices_table(trials: Sequence[Trial], plan: Plan) -> str:
    """List the trials on the held-out identities."""
    lines = [(trial.setting, trial.value, f"{trial.val_mAP:.1f}", "chosen" if trial.chosen else "") for trial in trials]
    caption = (
        f"At {FEW:.0%}, means of {len(plan.choice_seeds)} seeds, {plan.choice_images} generated images of each person "
        f"(of which {plan.floor} stay whatever the threshold); one setting after the other, each with those before."
    )
    return table("Chosen on the held-out identities", ("setting", "value", "mAP of val", ""), lines) + "\n\n" + caption


def cost_table(seconds: Mapping[str, float]) -> str:
    """Hours of commands by stage."""
    stages: dict[str, list[float]] = {}
    for name, value in seconds.items():
        stages.setdefault(name.partition("-")[0], []).append(value)
    lines = [(stage, len(values), f"{sum(values) / 3600:.2f}") for stage, values in sorted(stages.items())]
    total = ("all", sum(count for _, count, _ in lines), f"{sum(seconds.values()) / 3600:.2f}")
    return table("Commands that were finished", ("stage", "commands", "hours"), [*lines, total])


def maps(outcomes: Sequence[Outcome]) -> list[float]:
    """The mAP of each seed."""
    return [outcome.mAP for outcome in outcomes]
