"""Score how well an image shows its intended identity, and calibrate the scores: pure functions.

The paper keeps an image if a Re-ID network trained on the real identities is confident in its identity (Niu et al.,
arXiv 2406.06045), and leaves the score open. There are three here, and a rule can use any; a fourth
compares generated images with one another, :mod:`~diffreid_lightning.filtering.consistency`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

#: range of the temperature; without it, fully recognized held-out images would give 0
TEMPERATURES = (0.05, 20.0)
_STEPS = 60  # of bisection; the range then shrinks below the resolution of a double
_ROWS = 4096  # of logits in double precision at a time: all of thousands of identities take gigabytes


def confidence(logits: Tensor, identities: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Compute the softmax probability of the intended identity.

    Args:
        logits: (B, C) scores of the C identities.
        identities: (B,) intended identity of each image, int64 in [0, C).
        temperature: divisor of the logits, > 0; one number, or one for each image, (B,).

    Returns:
        (B,) probabilities, 0 to 1.
    """
    scale = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device).reshape(-1, 1)
    return F.softmax(logits / scale, dim=1).gather(1, identities[:, None]).squeeze(1)


def similarity(features: Tensor, centroids: Tensor, identities: Tensor) -> Tensor:
    """Compute the cosine between an image's features and the centroid of its intended identity.

    Args:
        features: (B, D).
        centroids: (C, D), from :func:`identity_centroids`.
        identities: (B,) intended identity of each image, int64 in [0, C).

    Returns:
        (B,) cosines, -1 to 1.
    """
    return F.cosine_similarity(features, centroids[identities], dim=1)


def margin(features: Tensor, centroids: Tensor, identities: Tensor) -> Tensor:
    """Compute the margin between the intended identity and the nearest other one.

    Args:
        features: (B, D).
        centroids: (C, D), C at least 2.
        identities: (B,) intended identity of each image, int64 in [0, C).

    Returns:
        (B,) cosine to the own centroid minus the largest cosine to another one, -2 to 2; above 0 if the nearest
        centroid is the image's own.

    Raises:
        ValueError: there is no other identity.
    """
    if len(centroids) < 2:
        raise ValueError("a margin needs at least two identities")
    cosines = F.normalize(features, dim=1) @ F.normalize(centroids, dim=1).T
    own = cosines.gather(1, identities[:, None]).squeeze(1)
    others = cosines.scatter(1, identities[:, None], -torch.inf)
    return own - others.amax(dim=1)


def identity_centroids(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Average the unit-length features of each identity.

    Args:
        features: (N, D).
        labels: (N,) identity of each row, int64 in [0, count).
        count: C.

    Returns:
        (C, D), each of unit length; zeros for an identity without an image.
    """
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, labels, F.normalize(features, dim=1))
    return F.normalize(sums, dim=1)


def fit_temperature(logits: Tensor, labels: Tensor, bounds: tuple[float, float] = TEMPERATURES) -> float:
    """Find the temperature that minimizes the negative log-likelihood (Guo et al., arXiv 1706.04599, section 4.2).

    The likelihood is concave in 1 / T, so the root of its derivative is bracketed and halved.

    Args:
        logits: (N, C) of images that the network was not trained on.
        labels: (N,) their identities.
        bounds: smallest and largest temperature.

    Returns:
        The temperature, within the bounds.

    Raises:
        ValueError: no rows, or logits that are not finite.
    """
    if not len(logits) or not all(torch.isfinite(block).all() for block in logits.split(_ROWS)):
        raise ValueError("a temperature is fitted to finite logits of at least one image")

    def slope(temperature: float) -> float:  # of the negative log-likelihood, in 1 / T
        total = 0.0
        for block, own in _blocks(logits, labels):
            expected = (F.softmax(block / temperature, dim=1) * block).sum(dim=1)
            total += float(expected.sub(block.gather(1, own[:, None]).squeeze(1)).sum())
        return total

    low, high = bounds
    if slope(low) <= 0:
        return low
    if slope(high) >= 0:
        return high
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low * high) ** 0.5


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Compute the mean negative logarithm of :func:`confidence`, from (N, C) logits and (N,) labels."""
    sums = (F.cross_entropy(block / temperature, own, reduction="sum") for block, own in _blocks(logits, labels))
    return float(sum(sums)) / len(logits)


def _blocks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of logits in double precision, with their labels."""
    for block, own in zip(logits.split(_ROWS), labels.split(_ROWS), strict=True):
        yield block.double(), own


def assign_folds(labels: npt.NDArray[np.int64], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Assign the images of each identity evenly to the folds of cross-fitting.

    Args:
        labels: (N,) identity of each image.
        folds: number of folds, at least 2.
        seed: of the images' order.

    Returns:
        (N,) fold of each image, 0 to ``folds`` - 1; -1 for the only image of an identity, which cannot be held out.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, number, size = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
    # Start each identity with another fold; otherwise small identities would leave the last folds empty.
    dealt = (np.arange(len(order)) - first[number] + number) % folds
    dealt[size[number] == 1] = -1
    result = np.empty(len(labels), dtype=np.int64)
    result[order] = dealt
    return result
