"""Equally many images of everybody: those with the best scores, those with the worst, or any."""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.rules import Selection, SelectionRule
from diffreid_lightning.filtering.rules.base import ScoreName, rank_in_identity

Order = Literal["best", "random", "worst"]


class EqualCount(SelectionRule):
    """Keep as many images of each identity, whatever the order they are taken in.

    An identity with fewer images keeps all; the orders then agree about it.

    Args:
        images: of each identity.
        order: which of them.
        score: what is good.
        seed: of the random order.
    """

    def __init__(self, images: int, order: Order = "best", score: ScoreName = "confidence", seed: int = 0) -> None:
        if images < 1:
            raise UserError(f"EqualCount is to keep {images} images.", looked_for="1 or more")
        self.images = images
        self.order: Order = order
        self.score: ScoreName = score
        self.seed = seed

    def apply(self, selection: Selection) -> None:
        """Drop what comes after the first so many."""
        scores = selection.score(self.score)
        if self.order == "random":
            scores = np.random.default_rng(self.seed).permutation(len(scores)).astype(np.float64)
        elif self.order == "worst":
            scores = -scores
        ranks = rank_in_identity(selection.labels, scores, selection.kept)
        selection.drop(ranks >= self.images, f"not among the {self.order} {self.images} of its identity")
