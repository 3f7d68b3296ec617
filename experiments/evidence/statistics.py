"""Paired differences over seeds, and how soon a curve reaches a height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffreid_lightning.benchmark.paired_differences import interval


class Estimate(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Estimate by how much ``first`` exceeds ``second``, seed by seed, with Student's interval.

    Args:
        first: (S,) values, S at least 1.
        second: (S,) values of the same seeds.

    Returns:
        The mean difference; the interval is NaN for a single seed.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if differences.ndim != 1 or not len(differences):
        raise ValueError(f"expected one value per seed, got shape {differences.shape}")
    found = interval(differences.tolist())
    half = math.nan if found.half is None else found.half
    return Estimate(found.mean, found.mean - half, found.mean + half)


def reached(curve: Sequence[tuple[int, float]], height: float) -> int | None:
    """Return the first step of a curve at which it is at least so high; None where it never is.

    Args:
        curve: (step, value), in order.
        height: what is to be reached.
    """
    return next((step for step, value in curve if value >= height), None)
