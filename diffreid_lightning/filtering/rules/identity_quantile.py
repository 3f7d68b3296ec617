"""Score threshold per identity, from its own images."""

from __future__ import annotations

import numpy as np

from diffreid_lightning.errors import check_range
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
        check_range("IdentityQuantile.quantile", quantile, 0, 1, below=True)
        self.quantile = quantile
        self.score: ScoreName = score

    def apply(self, selection: Selection) -> None:
        """Drop kept images that score below the quantile of their identity."""
        scores = selection.require_score(self.score)
        rows = np.flatnonzero(selection.kept)
        rows = rows[np.argsort(selection.labels[rows], kind="stable")]
        low = np.zeros(len(selection), dtype=bool)
        for group in np.split(rows, np.flatnonzero(np.diff(selection.labels[rows])) + 1):
            if len(group):  # there is one group, without rows, where no image is left
                low[group] = scores[group] < np.quantile(scores[group], self.quantile)
        selection.drop(low, f"{self.score} below quantile {self.quantile:g} of its identity")
