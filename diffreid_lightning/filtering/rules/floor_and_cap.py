"""Threshold with a minimum and a maximum number of images per identity."""

from __future__ import annotations

import numpy as np

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.filtering.rules.base import ScoreName, Selection, rank_in_identity
from diffreid_lightning.filtering.rules.fixed_threshold import FixedThreshold


class ThresholdWithFloorAndCap(FixedThreshold):
    """Drop images below a score threshold, but keep at least ``floor`` and at most ``cap`` of each identity.

    The best images are kept; with a threshold of -2, which every score exceeds, the best ``cap`` of each identity. The
    floor restores only images that this rule dropped, not those of earlier rules or
    without a score.

    Args:
        threshold: smallest score that is kept.
        floor: minimum images per identity, whatever they score; 0 for none.
        cap: maximum images per identity; None for none.
        score: ``confidence``, ``similarity``, ``margin`` or ``consistency``.
    """

    def __init__(
        self, threshold: float = 0.5, floor: int = 0, cap: int | None = None, score: ScoreName = "confidence"
    ) -> None:
        super().__init__(threshold, score)
        check_range("ThresholdWithFloorAndCap.floor", floor)
        check_range("ThresholdWithFloorAndCap.cap", cap, 1)
        if cap is not None and cap < floor:
            raise UserError(
                f"A floor of {floor} and a cap of {cap} images contradict each other.",
                looked_for="a cap that is not below the floor",
            )
        self.floor = floor
        self.cap = cap

    def apply(self, selection: Selection) -> None:
        """Drop images below the threshold, restore up to the floor, drop images above the cap."""
        scores = selection.require_score(self.score)
        ranks = rank_in_identity(selection.labels, scores, selection.kept)
        low = selection.kept & (scores < self.threshold)
        selection.drop(low, f"{self.score} below {self.threshold:g}")
        saved = low & (ranks < self.floor)
        selection.restore(saved, f"below {self.threshold:g}, kept as one of the best {self.floor} of its identity")
        if self.cap is not None:
            over: np.ndarray[tuple[int], np.dtype[np.bool_]] = ranks >= self.cap
            selection.drop(over, f"its identity has {self.cap} better images")
