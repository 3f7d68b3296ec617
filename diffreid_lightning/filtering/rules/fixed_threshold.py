"""One threshold for all images, as in the paper."""

from __future__ import annotations

from diffreid_lightning.errors import check_range
from diffreid_lightning.filtering.rules.base import ScoreName, Selection, SelectionRule


class FixedThreshold(SelectionRule):
    """Drop images below a score threshold (Niu et al., arXiv 2406.06045: "Re-ID confidence threshold").

    Args:
        threshold: smallest score that is kept.
        score: ``confidence`` or ``consistency`` (0 to 1), ``similarity`` (-1 to 1) or ``margin`` (-2 to 2).
    """

    def __init__(self, threshold: float = 0.5, score: ScoreName = "confidence") -> None:
        check_range(f"{type(self).__name__}.threshold", threshold, -10, 10)
        self.threshold = threshold
        self.score: ScoreName = score

    @property
    def cut(self) -> tuple[ScoreName, float]:
        """Score and threshold."""
        return self.score, self.threshold

    def apply(self, selection: Selection) -> None:
        """Drop images below the threshold."""
        low = selection.require_score(self.score) < self.threshold
        selection.drop(low, f"{self.score} below {self.threshold:g}")
