"""CUHK03-NP: CUHK03 (Li et al., CVPR 2014) in the new protocol of Zhong et al., CVPR 2017."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

from diffreid_lightning.datasets.base import Counts, Rows
from diffreid_lightning.datasets.market_layout import MarketLayout
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot

BOXES = ("labeled", "detected")


class CUHK03NP(MarketLayout):
    """CUHK03-NP: 767 training identities, 700 test identities, 2 cameras; boxes drawn by hand or by a detector.

    Args:
        root: the folder that holds ``labeled`` and ``detected``, or a .zip of it.
        boxes: the boxes to read; results on the two are not comparable, so state them together with the result.
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source = "cuhk03np"
    layout = "labeled and detected, each with bounding_box_train, query, bounding_box_test; names like 0001_c1_1.png"
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)_\d+")

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        boxes: Literal["labeled", "detected"] = "detected",
        source: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(root, source=source, strict=strict)
        if boxes not in BOXES:
            raise UserError(f"CUHK03NP has no boxes {boxes!r}", looked_for=" or ".join(BOXES))
        self.boxes = boxes

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if ``labeled`` or ``detected`` exists and holds the three folders."""
        folders = images.folders()
        return any(boxes in folders and super(CUHK03NP, cls).has_layout(images.below(boxes)) for boxes in BOXES)

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Return true if the layout fits; no other format has these folders."""
        return cls.has_layout(images)

    @property
    def published_counts(self) -> Mapping[str, Counts]:
        """Return the counts of the chosen boxes."""
        train, gallery = (7368, 5328) if self.boxes == "labeled" else (7365, 5332)
        return {"train": Counts(767, train, 2), "query": Counts(700, 1400, 2), "gallery": Counts(700, gallery, 2)}

    @property
    def description(self) -> str:
        """Return the name and the boxes."""
        return f"CUHK03-NP, {self.boxes} boxes"

    def _rows(self, images: ImageRoot) -> Rows:
        if self.boxes not in images.folders():
            raise UserError(
                f"There are no {self.boxes} boxes in {images.path}",
                looked_for=self.boxes,
                found=", ".join(images.folders()),
                remedy="choose the other boxes, or unpack these beside them",
            )
        rows = super()._rows(images.below(self.boxes))
        rows.file_name = [f"{self.boxes}/{name}" for name in rows.file_name]
        return rows
