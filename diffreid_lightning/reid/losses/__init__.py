"""Re-ID losses, one per file: a pure function and the module around it."""

from diffreid_lightning.reid.losses.angular_margin import AngularMargin, angular_margin_softmax
from diffreid_lightning.reid.losses.base import MetricLoss, ReIDLoss
from diffreid_lightning.reid.losses.center import CenterLoss, center_loss
from diffreid_lightning.reid.losses.circle import CircleLoss, circle_loss
from diffreid_lightning.reid.losses.circle_softmax import CircleSoftmax, circle_softmax
from diffreid_lightning.reid.losses.cluster_memory import ClusterMemory, cluster_memory_loss, update_memory
from diffreid_lightning.reid.losses.label_smoothing import LabelSmoothedCrossEntropy, label_smoothed_cross_entropy
from diffreid_lightning.reid.losses.triplet import BatchHardTriplet, batch_hard_triplet
from diffreid_lightning.reid.losses.weighted_triplet import WeightedTriplet, weighted_triplet

__all__ = [
    "AngularMargin",
    "BatchHardTriplet",
    "CenterLoss",
    "CircleLoss",
    "CircleSoftmax",
    "ClusterMemory",
    "LabelSmoothedCrossEntropy",
    "MetricLoss",
    "ReIDLoss",
    "WeightedTriplet",
    "angular_margin_softmax",
    "batch_hard_triplet",
    "center_loss",
    "circle_loss",
    "circle_softmax",
    "cluster_memory_loss",
    "label_smoothed_cross_entropy",
    "update_memory",
    "weighted_triplet",
]
