"""One file per on-disk format: a folder becomes a manifest."""

from diffreid_lightning.datasets import layout_advice
from diffreid_lightning.datasets.base import Counts, PersonDataset, Rows, count_splits
from diffreid_lightning.datasets.crop_folder import CropFolder
from diffreid_lightning.datasets.cuhk03np import CUHK03NP
from diffreid_lightning.datasets.detect import FORMATS, detect, open_dataset, open_unlabeled, recognize
from diffreid_lightning.datasets.diff_person import DiffPerson
from diffreid_lightning.datasets.dukemtmcreid import DukeMTMCReID
from diffreid_lightning.datasets.layout_suggestion import suggest_options
from diffreid_lightning.datasets.manifest_dataset import ManifestDataset
from diffreid_lightning.datasets.market1501 import Market1501
from diffreid_lightning.datasets.market_layout import MarketLayout
from diffreid_lightning.datasets.miniperson import MiniPerson
from diffreid_lightning.datasets.msmt17 import MSMT17
from diffreid_lightning.datasets.msmt17_market import MSMT17Market
from diffreid_lightning.datasets.person_folder import PersonFolder
from diffreid_lightning.datasets.person_table import PersonTable
from diffreid_lightning.datasets.subset_dataset import Subset

layout_advice.recognize, layout_advice.suggest = recognize, suggest_options

__all__ = [
    "CUHK03NP",
    "CropFolder",
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
    "open_unlabeled",
]
