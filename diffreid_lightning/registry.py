"""List the public classes: what a config may name without its module.

The command line imports this file and no stage. A new captioner, diversity strategy, loss, filter rule or way to
train is one new file and one import here; a dataset format is one new file and one entry in
:data:`~diffreid_lightning.datasets.detect.FORMATS`.
"""

# ruff: noqa: F401 (the imports are the list)
from __future__ import annotations

from diffreid_lightning.callbacks.compile_model import CompileBackbone
from diffreid_lightning.callbacks.epoch_seed import EpochSeed
from diffreid_lightning.callbacks.plan_progress import PlanProgress
from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.captioning.color_captioner import ColorCaptioner
from diffreid_lightning.captioning.datamodule import CaptioningDataModule
from diffreid_lightning.captioning.reader_captioner import ReaderCaptioner
from diffreid_lightning.captioning.transformers_captioner import TransformersCaptioner
from diffreid_lightning.captioning.writer import CaptionWriter
from diffreid_lightning.datasets import FORMATS, CropFolder, MiniPerson, Subset
from diffreid_lightning.datasets.samplers import PKSampler, ShuffledRows
from diffreid_lightning.datasets.transforms import TrainView
from diffreid_lightning.distillation.module import ConsistencyDistillation
from diffreid_lightning.filtering.calibration import FoldHeads, FoldNetworks, Uncalibrated
from diffreid_lightning.filtering.datamodule import ScoringDataModule
from diffreid_lightning.filtering.rules import (
    FixedThreshold,
    IdentityAgreement,
    IdentityQuantile,
    NearDuplicates,
    ThresholdWithFloorAndCap,
)
from diffreid_lightning.filtering.scorer import ReIDScorer, ScorerTraining
from diffreid_lightning.filtering.scorer_export import ScorerExport
from diffreid_lightning.filtering.selection import DiffPersonSelection
from diffreid_lightning.filtering.writer import ScoreWriter
from diffreid_lightning.generation.contact_sheet import ContactSheet
from diffreid_lightning.generation.datamodule import PromptsDataModule
from diffreid_lightning.generation.diversity import (
    ComposedGuidance,
    ConceptDifference,
    GuidanceJitter,
    NoDiversity,
    SDEdit,
    WordsOnly,
)
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.generation.writer import GeneratedImagesWriter
from diffreid_lightning.personalization.callbacks import IdentitySheets, PersonalizationExport
from diffreid_lightning.personalization.datamodule import PersonalizationDataModule
from diffreid_lightning.personalization.fine_tuning import CrossAttentionKV, FullFineTuning, TokensOnly
from diffreid_lightning.personalization.identity_tokens import FreeTokens, MappedTokens, RareWord
from diffreid_lightning.personalization.lora import LoRA
from diffreid_lightning.personalization.module import Personalization
from diffreid_lightning.personalization.prior_images import CoarsePrior, FineGrainedPrior
from diffreid_lightning.personalization.row_adamw import RowAdamW
from diffreid_lightning.reid.backbone_export import BackboneExport
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.reid.feature_writer import FeatureWriter
from diffreid_lightning.reid.freeze_backbone import FreezeBackbone
from diffreid_lightning.reid.losses import (
    AngularMargin,
    BatchHardTriplet,
    CenterLoss,
    CircleLoss,
    CircleSoftmax,
    ClusterMemory,
    LabelSmoothedCrossEntropy,
    WeightedTriplet,
)
from diffreid_lightning.reid.rank_lists import RankLists
from diffreid_lightning.reid.results_table import ResultsTable
from diffreid_lightning.reid.supervised import SupervisedReID
from diffreid_lightning.tracking import WandbTracker
from diffreid_lightning.training.flat_cosine import FlatThenCosine
from diffreid_lightning.unsupervised.callbacks import ClusterReport
from diffreid_lightning.unsupervised.cluster_sampler import ClusterSampler
from diffreid_lightning.unsupervised.clusterers import DBSCAN, KMeans
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule
from diffreid_lightning.unsupervised.distances import CameraJaccardDistance, CosineDistance, JaccardDistance
from diffreid_lightning.unsupervised.joint_adaptation import JointAdaptation
from diffreid_lightning.unsupervised.module import UnsupervisedReID
from diffreid_lightning.unsupervised.mutual_teaching import MutualMeanTeaching
from diffreid_lightning.visualization.sample_sheets import SampleSheets

CLASSES: tuple[type, ...] = (*FORMATS, *(value for value in list(globals().values()) if isinstance(value, type)))
"""Every class that a config names: modules, DataModules, callbacks, and their interchangeable parts."""
