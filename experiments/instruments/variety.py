"""Measure the diversity of one person's images: entropy of their attributes, and the Vendi score of their features.

The Vendi score (Friedman and Dieng, arXiv 2210.02410) is the effective number of different images: the exponential of
the entropy of the eigenvalues of K / n, K being the images' similarities. Both it and an entropy grow with the number
of images they are taken of, so all are means over random sets of the same size, each of one person's images; the
variety of people itself, which any prompt has, does not enter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def vendi_score(features: Floats) -> float:
    """The Vendi score under cosine similarity.

    Args:
        features: (n, D), n at least 1.

    Returns:
        From 1, all point the same way, to n, all are orthogonal.
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def entropy(labels: npt.NDArray[np.int64]) -> float:
    """Entropy in bits of the labels of n images, (n,) or (n, A) where several make one: 0 to log2 n."""
    _, counts = np.unique(labels, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no negative zero


def within_people(
    people: npt.NDArray[np.int64],
    measure: Callable[[npt.NDArray[np.int64]], float],
    size: int,
    draws: int = 20,
    seed: int = 0,
) -> float | None:
    """Average a measure over random sets of images of one person.

    Args:
        people: (N,) whom each image shows.
        measure: takes the rows of a set.
        size: images in a set; who has fewer is left out.
        draws: sets of each person.
        seed: of the draws.

    Returns:
        The mean over people; None where nobody has so many images.
    """
    rng = np.random.default_rng(seed)
    means = []
    for person in np.unique(people):
        rows = np.flatnonzero(people == person)
        if len(rows) >= size:
            sets = [rng.choice(rows, size, replace=False) for _ in range(draws)]
            means.append(np.mean([measure(chosen) for chosen in sets]))
    return float(np.mean(means)) if means else None
