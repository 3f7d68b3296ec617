"""DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017).

The authors have withdrawn the dataset; this reader is for those who have it under their own agreement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from diffreid_lightning.datasets.base import Counts
from diffreid_lightning.datasets.market_layout import MarketLayout


class DukeMTMCReID(MarketLayout):
    """DukeMTMC-reID: 8 cameras; the 408 identities seen by a single camera are ordinary gallery identities.

    Args:
        root: the folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``, or a .zip of it.
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source = "dukemtmcreid"
    layout = "bounding_box_train, query, bounding_box_test with names like 0001_c2_f0046182.jpg"
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)_f\d+")
    published_counts: ClassVar[Mapping[str, Counts]] = {
        "train": Counts(702, 16522, 8), "query": Counts(702, 2228, 8), "gallery": Counts(1110, 17661, 8),
    }  # fmt: skip
    description = "DukeMTMC-reID"
