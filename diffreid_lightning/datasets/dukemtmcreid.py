"""DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017).

The authors have withdrawn the dataset. This reader is for people who hold it under their own agreement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffreid_lightning.datasets.base import Counts
from diffreid_lightning.datasets.market_layout import MarketLayout


class DukeMTMCReID(MarketLayout):
    """DukeMTMC-reID: 8 cameras; the 408 people seen by one camera only are ordinary gallery identities.

    Args:
        root: the folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``, or a .zip of it.
        source: the manifest's source, where data of one's own must not be taken for the benchmark's people.
        strict: make a difference from the published counts an error instead of a warning.
    """

    source = "dukemtmcreid"
    layout = "bounding_box_train, query, bounding_box_test with names like 0001_c2_f0046182.jpg"
    pattern = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)_f\d+")

    @property
    def published(self) -> Mapping[str, Counts]:
        """Counts of the published split."""
        return {"train": Counts(702, 16522, 8), "query": Counts(702, 2228, 8), "gallery": Counts(1110, 17661, 8)}

    @property
    def description(self) -> str:
        """The dataset's own name."""
        return "DukeMTMC-reID"
