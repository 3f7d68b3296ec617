"""Choose the caption of a training image: the manifest's as it stands, or a random part of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest


class CaptionSource(ABC):
    """Puts a row of a manifest into words, differently at each draw.

    ``columns`` names what it reads.
    """

    columns: tuple[str, ...] = ("caption",)

    @abstractmethod
    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator) -> str:
        """Caption one row.

        Args:
            row: the values of ``columns``.
            rng: the source of every choice.
        """


class ManifestCaptions(CaptionSource):
    """The ``caption`` column, without some of the parts between its commas.

    Args:
        drop: chance of each part but the first to be left out, 0 to 1, so that short prompts work as well.
    """

    def __init__(self, drop: float = 0.0) -> None:
        if not 0 <= drop < 1:
            raise UserError(f"Captions are shortened with a chance of {drop}.", looked_for="a chance from 0 to below 1")
        self.drop = drop

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator) -> str:
        """Return the caption; "" where there is none."""
        first, *others = (row["caption"] or "").split(", ")
        return ", ".join([first, *(part for part in others if rng.random() >= self.drop)])


def captions_of(manifest: Manifest, source: CaptionSource, rng: np.random.Generator) -> Iterator[str]:
    """Caption every row once, in order."""
    for row in manifest.table.select(list(source.columns)).to_pylist():
        yield source(row, rng)
