"""Networks: timm backbones with Re-ID pooling, stride and neck."""

from diffreid_lightning.nets.backbone import Backbone
from diffreid_lightning.nets.export import save_backbone
from diffreid_lightning.nets.heads import BNNeck, IdentityClassifier
from diffreid_lightning.nets.weights import WeightsReport, load_initial_weights

__all__ = [
    "BNNeck",
    "Backbone",
    "IdentityClassifier",
    "WeightsReport",
    "load_initial_weights",
    "save_backbone",
]
