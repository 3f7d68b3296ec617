"""Compute the shares of generated images that are recognized, and that agree with their label's other images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffreid_lightning.filtering.scored_manifest import NEAREST_LABEL, label_text
from diffreid_lightning.manifest.manifest import Manifest


@dataclass(frozen=True)
class LabelShares:
    """Shares of scored images whose label is right in one sense or the other.

    Args:
        images: number of images, with or without a score.
        unscored: number of those without a score, which count as neither.
        recognized: share that is nearer to the intended identity's real images than to those of any other identity
            that the scorer knows, 0 to 1.
        consistent: share that is nearest to its own label among the generated images, 0 to 1; None if scoring did not
            compare them.
        chance: ``consistent`` for images of random labels, and ``recognized`` if the scorer knows no other identities.
    """

    images: int
    unscored: int
    recognized: float
    consistent: float | None
    chance: float


def label_shares(scored: Manifest) -> LabelShares:
    """Compute the shares of a scored manifest's images.

    Args:
        scored: at least one row, all generated, with the column ``margin``.
    """
    labels, keys = scored.identities()
    margins = scored.numpy("margin")
    consistent = None
    if NEAREST_LABEL in scored.columns:
        own = np.asarray([label_text(key) for key in keys], dtype=object)[labels]
        nearest = np.asarray(scored.table[NEAREST_LABEL].to_pylist(), dtype=object)
        consistent = float((own == nearest).mean()) if any(nearest) else None
    return LabelShares(
        images=len(scored),
        unscored=int(np.isnan(margins).sum()),
        recognized=float((margins > 0).mean()),
        consistent=consistent,
        chance=1 / len(keys),
    )
