"""Re-ID losses, one per file: a pure function and the module around it."""

from diffreid_lightning.reid.losses.base import ReIDLoss
from diffreid_lightning.reid.losses.cluster_memory import ClusterMemory, cluster_memory_loss, update_memory
from diffreid_lightning.reid.losses.label_smoothing import LabelSmoothedCrossEntropy, label_smoothed_cross_entropy
from diffreid_lightning.reid.losses.triplet import BatchHardTriplet, batch_hard_triplet

__all__ = [
    "BatchHardTriplet",
    "ClusterMemory",
    "LabelSmoothedCrossEntropy",
    "ReIDLoss",
    "batch_hard_triplet",
    "cluster_memory_loss",
    "label_smoothed_cross_entropy",
    "update_memory",
]
