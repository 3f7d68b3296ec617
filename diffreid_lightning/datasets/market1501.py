"""Market-1501 (Zheng et al., ICCV 2015)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from diffreid_lightning.datasets.base import Counts, Rows
from diffreid_lightning.datasets.market_layout import MarketLayout
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot

_DISTRACTORS = "images"


class Market1501(MarketLayout):
    """Market-1501: 1,501 people, 6 cameras.

    Person -1 is junk (dropped and counted, 3,819 boxes in the published gallery folder); person 0 are the distractors
    of the gallery.

    Args:
        root: the folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``, or a .zip of it.
        distractors_500k: add the 500,000 extra distractors, in ``images`` beside the three folders, to the gallery;
            its count is then not compared with the published one.
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source = "market1501"
    layout = "bounding_box_train, query, bounding_box_test with names like 0002_c1s1_000451_03.jpg"
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)s\d+_")
    zero_is_distractor = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        distractors_500k: bool = False,
        source: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(root, source=source, strict=strict)
        self.distractors_500k = distractors_500k

    @property
    def published_counts(self) -> Mapping[str, Counts]:
        """Return the counts without junk; the gallery's ids include the distractors' pid 0."""
        counts = {"train": Counts(751, 12936, 6), "query": Counts(750, 3368, 6), "gallery": Counts(751, 15913, 6)}
        if self.distractors_500k:
            del counts["gallery"]
        return counts

    @property
    def description(self) -> str:
        """Return the name, and whether the 500k distractors are included."""
        return "Market-1501" + (" + 500k distractors" if self.distractors_500k else "")

    def _rows(self, images: ImageRoot) -> Rows:
        rows = super()._rows(images)
        if self.distractors_500k:
            self._add_distractors(rows, images)
        return rows

    def _add_distractors(self, rows: Rows, images: ImageRoot) -> None:
        names = images.images(_DISTRACTORS)
        if not names:
            raise UserError(
                f"The 500k distractors are not in {images.path}",
                looked_for=f"a folder {_DISTRACTORS!r} with images, beside bounding_box_test",
                remedy=f"unpack the distractors to {images.path / _DISTRACTORS}, or set distractors_500k to false",
            )
        camera = re.compile(r"_c(\d+)(?=[s_.])")
        unreadable = []
        for name in names:
            found = camera.search(name, name.rfind("/") + 1)
            if found is None:
                unreadable.append(name)
            else:  # their person numbers mean nothing in this dataset
                rows.add(name, "gallery", 0, int(found[1]), "distractor")
        if unreadable:
            raise self._unreadable(images, _DISTRACTORS, unreadable)
