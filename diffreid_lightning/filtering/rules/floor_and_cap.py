"""A threshold that leaves nobody with too few images, and nobody with too many."""

from __future__ import annotations

import numpy as np

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.filtering.rules.base import ScoreName, Selection, SelectionRule, rank_in_identity


class ThresholdWithFloorAndCap(SelectionRule):
    """Keep images that score at least a threshold, but of each identity at least some and at most so many, best first.

    The floor brings back what this rule alone would drop; what an earlier rule dropped, or has no score, stays out.

    Args:
        threshold: smallest score that is kept.
        floor: an identity keeps its best so many images whatever they score; 0 for none.
        cap: an identity keeps no more than its best so many; None for any number.
        score: ``confidence``, ``similarity`` or ``margin``.
    """

    def __init__(
        self, threshold: float = 0.5, floor: int = 0, cap: int | None = None, score: ScoreName = "confidence"
    ) -> None:
        check_range("ThresholdWithFloorAndCap.threshold", threshold, -10, 10)
        check_range("ThresholdWithFloorAndCap.floor", floor)
        check_range("ThresholdWithFloorAndCap.cap", cap, 1)
        if floor < 0 or (cap is not None and cap < max(floor, 1)):
            raise UserError(
                f"A floor of {floor} and a cap of {cap} images contradict each other.",
                looked_for="a floor of 0 or more and a cap of at least 1 that is not below it",
            )
        self.threshold = threshold
        self.floor = floor
        self.cap = cap
        self.score: ScoreName = score

    @property
    def cut(self) -> tuple[ScoreName, float]:
        """Where it cuts."""
        return self.score, self.threshold

    def apply(self, selection: Selection) -> None:
        """Drop what scores less, bring back up to the floor, drop what is above the cap."""
        scores = selection.score(self.score)
        ranks = rank_in_identity(selection.labels, scores, selection.kept)
        low = selection.kept & (scores < self.threshold)
        selection.drop(low, f"{self.score} below {self.threshold:g}")
        saved = low & (ranks < self.floor)
        selection.restore(saved, f"below {self.threshold:g}, kept as one of the best {self.floor} of its identity")
        if self.cap is not None:
            over: np.ndarray[tuple[int], np.dtype[np.bool_]] = ranks >= self.cap
            selection.drop(over, f"its identity has {self.cap} better images")
