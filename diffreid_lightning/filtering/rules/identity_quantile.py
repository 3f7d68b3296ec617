"""Score threshold per identity, from its own images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.rules.base import ScoreName, Selection, SelectionRule


class IdentityQuantile(SelectionRule):
    """Drop the same share of each identity's images: those below a quantile of its scores.

    Identities that are hard to recognize keep as many images as easy ones.

    Args:
        quantile: share of each identity's images that is dropped, from 0 up to, not including, 1. Between two images
            the quantile is interpolated, as ``numpy.quantile`` does.
        score: ``confidence``, ``similarity``, ``margin`` or ``consistency``.
    """

    def __init__(self, quantile: float = 0.5, score: ScoreName = "confidence") -> None:
        if not 0 <= quantile < 1:
            raise UserError(f"quantile is {quantile}.", looked_for="a share from 0 up to, not including, 1")
        self.quantile = quantile
        self.score: ScoreName = score

    def apply(self, selection: Selection) -> None:
        """Drop kept images that score below the quantile of their identity."""
        scores = selection.require_score(self.score)
        thresholds = group_quantiles(selection.labels[selection.kept], scores[selection.kept], self.quantile)
        low = np.zeros(len(selection), dtype=bool)
        low[selection.kept] = scores[selection.kept] < thresholds
        selection.drop(low, f"{self.score} below quantile {self.quantile:g} of its identity")


def group_quantiles(
    labels: npt.NDArray[np.int64], values: npt.NDArray[np.float64], quantile: float
) -> npt.NDArray[np.float64]:
    """Return the quantile of each row's group, (N,), linearly interpolated.

    Args:
        labels: (N,) group of each row.
        values: (N,) finite.
        quantile: 0 to 1.
    """
    order = np.lexsort((values, labels))
    ordered, own = values[order], labels[order]
    first = np.searchsorted(own, own, side="left")
    size = np.searchsorted(own, own, side="right") - first
    place = quantile * (size - 1)
    below = np.floor(place).astype(np.int64)
    low, high = ordered[first + below], ordered[first + np.minimum(below + 1, size - 1)]
    result = np.empty(len(values))
    result[order] = low + (high - low) * (place - below)
    return result
