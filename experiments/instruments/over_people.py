"""Intervals over people: what images of other people would have given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def bootstrap(
    shares: Sequence[float] | Floats, images: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None
) -> tuple[float, float]:
    """Draw people anew for the 95 % interval of the mean of what each of P people has.

    Args:
        shares: (P,) what each person has.
        images: (P,) how many images of each count; None lets all people count alike.
    """
    each = np.asarray(shares)
    weights = np.ones(len(each)) if images is None else np.asarray(images)
    draws = np.random.default_rng(0).integers(len(each), size=(2000, len(each)))
    means = (each * weights)[draws].sum(axis=1) / weights[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def jackknife(mean: float, without: Sequence[float] | Floats) -> tuple[float, float]:
    """Return the 95 % interval of a statistic from its values without each of P people, (P,)."""
    each = np.asarray(without)
    half = 1.96 * np.sqrt((len(each) - 1) * each.var())
    return float(mean - half), float(mean + half)


def distances_without(images: Floats, people: npt.NDArray[np.int64], real: Floats) -> list[float]:
    """Measure the unbiased kernel distance (KID, arXiv 1801.01401, equation 4) without the images of each person.

    Args:
        images: (N, D) features of images of at least two people.
        people: (N,) whom each shows.
        real: (M, D) features of real images, all of which stay.

    Returns:
        One for each person, in the order of their numbers.
    """

    def kernel(left: Floats, right: Floats) -> Floats:
        return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)

    def mean_of_pairs(pairs: Floats) -> float:
        return float((pairs.sum() - np.trace(pairs)) / (len(pairs) * (len(pairs) - 1)))

    within, across, reference = kernel(images, images), kernel(images, real), mean_of_pairs(kernel(real, real))
    left = [people != person for person in np.unique(people)]
    return [mean_of_pairs(within[rows][:, rows]) + reference - 2 * float(across[rows].mean()) for rows in left]
