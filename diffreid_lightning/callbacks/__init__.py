"""Lightning callbacks: evaluation, rank lists, checkpoints, exports, the run's numbers."""

from diffreid_lightning.callbacks.checkpoint import RunCheckpoint
from diffreid_lightning.callbacks.compile import CompileBackbone
from diffreid_lightning.callbacks.diffusion_export import DiffusionExport
from diffreid_lightning.callbacks.epoch_seed import EpochSeed
from diffreid_lightning.callbacks.evaluation import RetrievalEvaluator
from diffreid_lightning.callbacks.export import BackboneExport
from diffreid_lightning.callbacks.features import FeatureWriter
from diffreid_lightning.callbacks.personalisation import IdentitySheets, PersonalisationExport
from diffreid_lightning.callbacks.rank_lists import RankLists
from diffreid_lightning.callbacks.results import ResultsTable
from diffreid_lightning.callbacks.sample_sheets import SampleSheets

__all__ = [
    "BackboneExport",
    "CompileBackbone",
    "DiffusionExport",
    "EpochSeed",
    "FeatureWriter",
    "IdentitySheets",
    "PersonalisationExport",
    "RankLists",
    "ResultsTable",
    "RetrievalEvaluator",
    "RunCheckpoint",
    "SampleSheets",
]
