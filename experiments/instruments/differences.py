"""Means over seeds, and paired differences of two rows of a table with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Args:
        mean: of the values.
        half: half the interval's width; None where one value alone tells nothing of it.
        count: how many values.
    """

    mean: float
    half: float | None
    count: int

    def scaled(self, factor: float) -> Interval:
        """The interval of the values times ``factor``."""
        return Interval(self.mean * factor, None if self.half is None else self.half * abs(factor), self.count)

    def text(self, digits: int = 1, sign: bool = False) -> str:
        """Write it: ``3.1 ± 0.4``."""
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of independent values, by Student's distribution.

    Args:
        values: at least one.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, len(values))
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(mean, float(half), len(values))


def paired_difference(row: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """Mean and 95 % interval of ``row - other`` over the seeds that both have; None where there is none.

    Args:
        row: values by seed.
        other: values by seed.
    """
    seeds = sorted(set(row) & set(other))
    return interval([row[seed] - other[seed] for seed in seeds]) if seeds else None
