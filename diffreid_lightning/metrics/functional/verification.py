"""Measure errors of deciding "same person" by a threshold on the cosine similarity, with intervals over identities.

False match rate (FMR): share of pairs of other people at or above the threshold. False non-match rate (FNMR): share of
pairs of one person below it. Pairs that share an identity are not independent, so the intervals come from resampling
identities, not pairs (the vertex bootstrap, see Fogliato et al., arXiv 2306.01198).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.metrics.functional.checks import cameras_are_known, check_features, check_ids
from diffreid_lightning.metrics.functional.tiled_matmul import exact_products, inverse, norms

_STEPS = 2000  # thresholds per unit of similarity
_BINS = 2 * _STEPS + 1
_ROWS_AT_ONCE = 256

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class VerificationErrors:
    """Error rates by threshold; T thresholds, B resamples.

    Args:
        thresholds: (T,) ascending from -1, 0.0005 apart; at the last one nothing matches.
        fmr: (T,) false match rate of each threshold, falling from 1 to 0.
        fnmr: (T,) false non-match rate of each threshold, rising from 0 to 1.
        resampled_fmr: (B, T) the same with the identities drawn anew; NaN where no pair was drawn.
        resampled_fnmr: (B, T) likewise.
        same: (T - 1,) pairs of one person with a similarity from each threshold up to the next one.
        other: (T - 1,) pairs of two people.
        identities: number of people.
        across_cameras: pairs from one camera were left out.
    """

    thresholds: Array
    fmr: Array
    fnmr: Array
    resampled_fmr: Array
    resampled_fnmr: Array
    same: Ints
    other: Ints
    identities: int
    across_cameras: bool

    def at_fmr(self, wanted: float) -> int:
        """Return the position of the lowest threshold whose FMR is at most ``wanted``."""
        return int(np.argmax(self.fmr <= wanted))

    def at_fnmr(self, wanted: float) -> int:
        """Return the position of the highest threshold whose FNMR is at most ``wanted``."""
        return int(np.count_nonzero(self.fnmr <= wanted)) - 1

    def at_equal_errors(self) -> int:
        """Return the position of the threshold at which FMR and FNMR are closest."""
        return int(np.argmin(np.abs(self.fmr - self.fnmr)))

    def equal_error_rate(self) -> tuple[float, Array]:
        """Return the mean of both rates where they are closest, and the same of each resample that has pairs."""
        every = [np.vstack(pair) for pair in ((self.fmr, self.resampled_fmr), (self.fnmr, self.resampled_fnmr))]
        rows = np.flatnonzero(np.isfinite(every[0] + every[1]).all(axis=1))
        places = np.abs(every[0] - every[1])[rows].argmin(axis=1)
        rates = (every[0][rows, places] + every[1][rows, places]) / 2
        return float(rates[0]), rates[1:]


def verification_errors(
    features: Tensor, pids: Tensor, camids: Tensor, *, resamples: int = 500, seed: int = 0
) -> VerificationErrors:
    """Compare all pairs of images and count errors at every threshold; memory holds no matrix of pairs.

    Where images come from several cameras, only pairs across cameras count, as in retrieval. A camera id of its own for
    each image stands for unknown cameras: all pairs count.

    Args:
        features: (N, D), any floating dtype; need not be normalized.
        pids: (N,) integer person ids.
        camids: (N,) integer camera ids.
        resamples: B, how often the identities are drawn, with replacement.
        seed: of the draws.

    Raises:
        UserError: the inputs do not fit together, features are not finite, or there is no pair of one person or no
            pair of two people.
    """
    check_range("resamples", resamples, 1)
    (values,) = check_features(features=features)
    people, cameras = check_ids("pids", pids, len(values)), check_ids("camids", camids, len(values))
    order = np.argsort(people, kind="stable")
    _, labels = np.unique(people[order], return_inverse=True)
    cameras = cameras[order]
    across = cameras_are_known(cameras)
    count = int(labels[-1]) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).T.astype(float)
    same, other = np.zeros((count, _BINS), np.int64), np.zeros(_BINS, np.int64)
    drawn_other = np.zeros((_BINS, resamples))
    with exact_products():
        units = (values * inverse(norms("features", values))[:, None])[torch.from_numpy(order).to(values.device)]
        for person in range(count):
            counts = _count_pairs(units, labels, cameras if across else None, person)
            same[person] = counts[:, 0]
            other += counts[:, 1:].sum(axis=1)
            busy = counts[:, 1:].any(axis=1)
            drawn_other[busy] += (counts[busy, 1:] @ draws[person + 1 :]) * draws[person]
    if not same.any() or not other.any():
        raise UserError(
            "There are no pairs of images to compare.",
            looked_for="two images of one person" + (" from different cameras" if across else "") + ", and of two",
            found=f"{len(values)} images of {count} people",
        )
    return VerificationErrors(
        thresholds=np.arange(_BINS + 1) / _STEPS - 1,
        fmr=_tail(other),
        fnmr=1 - _tail(same.sum(axis=0)),
        resampled_fmr=_tail(drawn_other).T,
        resampled_fnmr=1 - _tail(same.T @ draws).T,
        same=same.sum(axis=0),
        other=other,
        identities=count,
        across_cameras=across,
    )


def _count_pairs(units: Tensor, labels: Ints, cameras: Ints | None, person: int) -> Ints:
    """Count a person's pairs with itself and the people after it by similarity, (T - 1, G - person).

    Args:
        units: (N, D) of unit length.
        labels: (N,) ascending from 0 to G - 1.
        cameras: (N,) of which two must differ; None takes all pairs.
        person: the label.
    """
    counts = np.zeros((_BINS, int(labels[-1]) + 1 - person), np.int64)
    begin, end = np.searchsorted(labels, (person, person + 1)).tolist()
    for first in range(begin, end, _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, end))
        products = (units[rows] @ units[first:].T).double()
        bins = ((products + 1) * _STEPS).floor().long().clamp(0, _BINS - 1).cpu().numpy()
        wanted = np.arange(first, rows.stop)[:, None] < np.arange(first, len(units))
        if cameras is not None:
            wanted &= cameras[rows, None] != cameras[first:]
        keys = bins * counts.shape[1] + (labels[first:] - person)
        counts += np.bincount(keys[wanted], minlength=counts.size).reshape(counts.shape)
    return counts


def _tail(counts: npt.NDArray[np.generic]) -> Array:
    """Return the share of the counts, (T - 1, ...), from each bin up, (T, ...); NaN where all are 0."""
    sums = np.concatenate([np.cumsum(counts[::-1], axis=0)[::-1], np.zeros_like(counts[:1])]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / sums[0])
