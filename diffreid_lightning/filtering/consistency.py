"""Measure how images agree with the others of their label, and how they vary within it: pure functions.

Pre-training needs labels that agree with themselves, whoever the images show. Features are read in blocks, so that they
may be memory-mapped; labels are numbers from 0, and a row of label -1 is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.filtering.scores import confidence, fit_temperature
from diffreid_lightning.metrics.functional.tiled_matmul import ProductColumns, exact_products, whole_tiles

#: range of the temperature of cosines; the lower end is reached if all images agree
TEMPERATURES = (0.002, 1.0)
_BLOCK = 4096  # rows compared at a time; a multiple of whole tiles
_FITTED = 2048  # rows that the temperature is fitted to

Features = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]


class Consistency(NamedTuple):
    """Agreement of N images with the others of their label."""

    scores: npt.NDArray[np.float64]  #: (N,) 0 to 1; NaN where there is none
    nearest: Labels  #: (N,) the label that each image would get; -1 where there is none
    temperature: float  #: divisor of the cosines


def consistency(features: Features, labels: Labels) -> Consistency:
    """Compute the probability of an image's label, by the other images.

    The classifier is a softmax over the cosines to the labels' mean directions, that of the own label without the
    image itself. The cosines are divided by the temperature that minimizes the negative log-likelihood of the labels,
    by up to 2,048 evenly spaced images. An image is nearest to its own label only if no other label is as near.

    Args:
        features: (N, D) rows of any length; only their direction counts.
        labels: (N,) label of each row; -1 for rows to leave out.

    Returns:
        The scores. There is none for a row of label -1, for the only image of a label, and if there is no other label.

    Raises:
        ValueError: features of a label are not finite.
    """
    scores, nearest = np.full(len(labels), np.nan), np.full(len(labels), -1, dtype=np.int64)
    present, numbers = np.unique(labels, return_inverse=True)
    present, numbers = present[present >= 0], numbers - int((present < 0).any())  # without labels of no image
    sums, sizes = _sum_labels(features, numbers)
    if not torch.isfinite(sums).all():
        raise ValueError("features are not finite")
    rows = np.flatnonzero(numbers >= 0)
    rows = rows[sizes.numpy()[numbers[rows]] > 1]
    if not len(rows) or len(present) < 2:
        return Consistency(scores, nearest, TEMPERATURES[1])
    means = ProductColumns(F.normalize(sums, dim=1).float())
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _FITTED)).astype(np.int64)]
    temperature = fit_temperature(*_cosines(features, numbers, chosen, sums, means), TEMPERATURES)
    for block in _blocks(rows):
        cosines, own = _cosines(features, numbers, block, sums, means)
        scores[block] = confidence(cosines, own, temperature).double().numpy()
        given = cosines.gather(1, own[:, None]).squeeze(1)
        best, other = cosines.scatter_(1, own[:, None], -torch.inf).max(dim=1)
        nearest[block] = present[torch.where(given > best, own, other).numpy()]
    return Consistency(scores, nearest, temperature)


def mean_pair_distances(features: Features, labels: Labels) -> npt.NDArray[np.float64]:
    """Average the cosine distance of two images of each label, over all pairs.

    The mean over random subsets of a label's images is the same number.

    Args:
        features: (N, D) rows of any length; only their direction counts.
        labels: (N,) label of each row; -1 for rows to leave out.

    Returns:
        (C,) distances, 0 to 2; NaN for a label with fewer than two images.
    """
    sums, counts = _sum_labels(features, labels)
    sizes = counts.double()
    pairs = (sizes * (sizes - 1)).masked_fill(sizes < 2, torch.nan)
    return np.asarray(1 - (sums.square().sum(dim=1) - sizes) / pairs)


def _cosines(
    features: Features, labels: Labels, rows: Labels, sums: Tensor, means: ProductColumns
) -> tuple[Tensor, Tensor]:
    """Return cosines to the labels' mean directions, (B, C), to the own one without the row, and the labels, (B,)."""
    directions, own = _directions(features, rows), torch.from_numpy(labels[rows])
    padded = torch.zeros(whole_tiles(len(rows)), directions.shape[1])  # tiles: the same bits from any number of threads
    padded[: len(rows)] = directions
    products = torch.empty(len(padded), means.padded)
    with exact_products():
        means.product_into(products, padded)
    cosines = products[: len(rows), : means.count]
    others = F.normalize(sums[own] - directions, dim=1)
    return cosines.scatter_(1, own[:, None], (others * directions).sum(dim=1, keepdim=True).float()), own


def _sum_labels(features: Features, labels: Labels) -> tuple[Tensor, Tensor]:
    """Sum the directions of each label, (C, D) float64, and count its rows, (C,) int64."""
    count = int(labels.max(initial=-1)) + 1
    sums = torch.zeros(count, features.shape[1], dtype=torch.float64)
    for block in _blocks(np.flatnonzero(labels >= 0)):
        sums.index_add_(0, torch.from_numpy(labels[block]), _directions(features, block))
    return sums, torch.from_numpy(np.bincount(labels[labels >= 0], minlength=count))


def _blocks(rows: Labels) -> Iterator[Labels]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _directions(features: Features, rows: Labels) -> Tensor:
    """Read rows as unit vectors, (B, D) float64; a row of zeros stays one."""
    return F.normalize(torch.from_numpy(np.asarray(features[rows], dtype=np.float64)), dim=1)
