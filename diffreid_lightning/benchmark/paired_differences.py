"""Compute means over seeds and paired differences with intervals, alone and corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student
from scipy.stats import ttest_1samp

Floats = npt.NDArray[np.float64]
_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its interval by Student's distribution.

    Args:
        mean: of the values.
        half: half the interval's width; None if one value alone tells nothing of it.
        count: how many values.
    """

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float:
        """Return the lower end, NaN if there is none."""
        return math.nan if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        """Return the upper end, NaN if there is none."""
        return math.nan if self.half is None else self.mean + self.half

    @property
    def ends_text(self) -> str:
        """Write it by its ends: ``+3.1 (+2.7 to +3.5)``; the mean alone if there is no interval."""
        mean = f"{self.mean:+.1f}"
        return mean if self.half is None else f"{mean} ({self.low:+.1f} to {self.high:+.1f})"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute mean and interval of independent values, by Student's distribution.

    Args:
        values: at least one.
        confidence: how often such an interval holds the mean of the distribution, above 0 and below 1.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or len(set(values)) == 1:  # repeats of one measurement say nothing of others
        return Interval(mean, None, len(values))
    half = student.ppf(0.5 + confidence / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(mean, float(half), len(values))


def paired_values(row: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Return ``row - other`` of every seed that both have, in the order of the seeds.

    Args:
        row: values by seed.
        other: values by seed.
    """
    return [row[seed] - other[seed] for seed in sorted(row.keys() & other.keys())]


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test that the mean difference is 0; None for fewer than two.

    Args:
        differences: one per pair. Without any spread they are repeats of one measurement, and there is no p-value.
    """
    return None if len(set(differences)) < 2 else float(ttest_1samp(differences, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that any false rejection among all has the stated probability.

    Holm, Scandinavian Journal of Statistics 6 (1979): the k-th smallest of m is multiplied by m - k + 1, none becomes
    smaller than one before it, none greater than 1.

    Args:
        p_values: (m,) from 0 to 1.

    Returns:
        (m,) adjusted p-values, in the order given.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def simultaneous(confidence: float, comparisons: int) -> float:
    """Return the confidence of each of several intervals so that all hold together with ``confidence`` (Bonferroni).

    Args:
        confidence: of all together, above 0 and below 1.
        comparisons: how many, at least 1.
    """
    return 1 - (1 - confidence) / comparisons


def interval_over_people(
    row: Mapping[int, Mapping[str, Floats]], other: Mapping[int, Mapping[str, Floats]], confidence: float
) -> tuple[float, float] | None:
    """Compute the bootstrap interval of a difference in mAP over people, for the networks that were trained.

    People are drawn with all their queries (percentiles of 2,000 draws, the same in every call); the difference is the
    mean over the seeds that both have.

    Args:
        row: average precision of each query, by seed and person.
        other: the same of the row that is compared with.
        confidence: of the interval.

    Returns:
        Its ends; None if no seed is common, or the queries differ.
    """
    seeds = sorted(row.keys() & other.keys())
    if not seeds:
        return None
    counts = {person: len(precisions) for person, precisions in row[seeds[0]].items()}
    for by_person in (results[seed] for results in (row, other) for seed in seeds):
        if {person: len(precisions) for person, precisions in by_person.items()} != counts:
            return None
    gains = np.array(
        [np.mean([row[seed][person].sum() - other[seed][person].sum() for seed in seeds]) for person in counts]
    )
    queries = np.array(list(counts.values()))
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=_DRAWS)
    low, high = np.quantile(drawn @ gains / (drawn @ queries), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
