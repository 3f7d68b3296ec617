"""MSMT17 converted to Market-1501's three folders, as several toolboxes pass it on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffreid_lightning.datasets.base import Counts
from diffreid_lightning.datasets.market_layout import MarketLayout


class MSMT17Market(MarketLayout):
    """MSMT17 in Market form: names like ``0000_c12_0036.jpg``, cameras of one or two digits, person 0 a person.

    The conversion puts the authors' val list into train (32,621 images).

    Args:
        root: the folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``, or a .zip of it.
        source: the manifest's source, where data of one's own must not be taken for the benchmark's people.
        strict: make a difference from the published counts an error instead of a warning.
    """

    source = "msmt17"
    layout = "bounding_box_train, query, bounding_box_test with names like 0000_c12_0036.jpg"
    # The running number has three digits or more, which tells these names from CUHK03-NP's 0001_c1_1.png.
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)_\d{3,}")

    @property
    def published(self) -> Mapping[str, Counts]:
        """Counts of MSMT17 with the val list in train."""
        return {"train": Counts(1041, 32621, 15), "query": Counts(3060, 11659, 15), "gallery": Counts(3060, 82161, 15)}

    @property
    def pids_restart(self) -> bool:  # type: ignore[override]
        """True of MSMT17 itself; people of other data in this form may well keep their numbers."""
        return not self.differences()

    @property
    def description(self) -> str:
        """The form, and what train holds."""
        return "MSMT17 in Market form, train = list_train + list_val"
