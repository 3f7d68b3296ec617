"""MSMT17 converted to Market-1501's three folders, as several toolboxes distribute it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from diffreid_lightning.datasets.base import Counts
from diffreid_lightning.datasets.market_layout import MarketLayout


class MSMT17Market(MarketLayout):
    """MSMT17 in Market form: names like ``0000_c12_0036.jpg``, cameras of one or two digits, pid 0 an ordinary person.

    Train includes the authors' val list (32,621 images).

    Args:
        root: the folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``, or a .zip of it.
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source = "msmt17"
    layout = "bounding_box_train, query, bounding_box_test with names like 0000_c12_0036.jpg"
    # Three or more digits of running number distinguish these names from CUHK03-NP's 0001_c1_1.png.
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)_\d{3,}")
    published_counts: ClassVar[Mapping[str, Counts]] = {
        "train": Counts(1041, 32621, 15), "query": Counts(3060, 11659, 15), "gallery": Counts(3060, 82161, 15),
    }  # fmt: skip
    description = "MSMT17 in Market form, train = list_train + list_val"

    @property
    def pids_restart(self) -> bool:  # type: ignore[override]
        """Return true for MSMT17 itself; other data in this form may number test identities on."""
        return not self.differences()
