"""One file per on-disk format: a folder becomes a manifest."""

from diffreid_lightning.data.datasets.base import Counts, PersonDataset, Rows, count_splits
from diffreid_lightning.data.datasets.cuhk03np import CUHK03NP
from diffreid_lightning.data.datasets.detect import FORMATS, detect, open_dataset
from diffreid_lightning.data.datasets.diff_person import DiffPerson
from diffreid_lightning.data.datasets.dukemtmcreid import DukeMTMCReID
from diffreid_lightning.data.datasets.manifest_dataset import ManifestDataset
from diffreid_lightning.data.datasets.market1501 import Market1501
from diffreid_lightning.data.datasets.market_layout import MarketLayout
from diffreid_lightning.data.datasets.miniperson import MiniPerson
from diffreid_lightning.data.datasets.msmt17 import MSMT17
from diffreid_lightning.data.datasets.msmt17_market import MSMT17Market
from diffreid_lightning.data.datasets.person_folder import PersonFolder
from diffreid_lightning.data.datasets.person_table import PersonTable
from diffreid_lightning.data.datasets.subset import Subset

__all__ = [
    "CUHK03NP",
    "Counts",
    "DiffPerson",
    "DukeMTMCReID",
    "FORMATS",
    "MSMT17",
    "MSMT17Market",
    "ManifestDataset",
    "Market1501",
    "MarketLayout",
    "MiniPerson",
    "PersonDataset",
    "PersonFolder",
    "PersonTable",
    "Rows",
    "Subset",
    "count_splits",
    "detect",
    "open_dataset",
]
