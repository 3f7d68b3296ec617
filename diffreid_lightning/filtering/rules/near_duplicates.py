"""Drop generated images that copy a real training image or a better generated one."""

from __future__ import annotations

import numpy as np

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.filtering.copy_search import later_copies
from diffreid_lightning.filtering.rules.base import ScoreName, Selection, SelectionRule, rank_in_identity
from diffreid_lightning.filtering.scored_manifest import REAL_DISTANCE


class NearDuplicates(SelectionRule):
    """Drop images too near to a real image (memorized) or to a better generated image of the same identity.

    Distances are those of :mod:`~diffreid_lightning.filtering.copy_search`, from 0 (the same thumbnail) to 1. They
    compare pixels, since Re-ID features bring all images of a person together. The scoring stage wrote the thumbnails
    and the distance to the nearest real image; no image is read here.

    Args:
        real: images nearer than this to a real one are dropped; None keeps them.
        generated: images nearer than this to a better one of their identity are dropped; None keeps them.
        score: decides the better of two images; one without the score is the worse.
    """

    def __init__(
        self, real: float | None = 0.05, generated: float | None = 0.05, score: ScoreName = "confidence"
    ) -> None:
        check_range("NearDuplicates.real", real, 0, 1)
        check_range("NearDuplicates.generated", generated, 0, 1)
        self.real = real
        self.generated = generated
        self.score: ScoreName = score

    def apply(self, selection: Selection) -> None:
        """Drop copies of real images, then of generated ones."""
        if self.real is not None:
            if REAL_DISTANCE not in selection.manifest.columns:
                raise UserError(
                    f"The manifest of {selection.manifest.root} has no distances to real images.",
                    looked_for=f"column {REAL_DISTANCE}, as scoring writes it",
                    remedy="score it again, or give NearDuplicates real: null",
                )
            near = np.nan_to_num(selection.manifest.numpy(REAL_DISTANCE), nan=np.inf) < self.real
            selection.drop(near, f"nearer than {self.real:g} to a real image")
        if self.generated is not None:
            selection.drop(self._copies(selection), f"nearer than {self.generated:g} to a better generated image")

    def _copies(self, selection: Selection) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        assert self.generated is not None
        ranks = rank_in_identity(selection.labels, selection.score(self.score), selection.kept)
        rows = np.flatnonzero(ranks >= 0)
        rows = rows[np.lexsort((ranks[rows], selection.labels[rows]))]
        copies = np.zeros(len(selection), dtype=bool)
        for group in np.split(rows, np.flatnonzero(np.diff(selection.labels[rows])) + 1):
            if len(group) > 1:
                copies[group] = later_copies(selection.thumbnails[group], self.generated) >= 0
        return copies
