"""Networks: timm backbones with Re-ID pooling, stride and neck."""

from diffreid_lightning.nets.backbone import Backbone
from diffreid_lightning.nets.export import save_backbone
from diffreid_lightning.nets.foreign import open_foreign
from diffreid_lightning.nets.forms import FORMS
from diffreid_lightning.nets.heads import BNNeck, IdentityClassifier
from diffreid_lightning.nets.weights import WeightsReport, fill_backbone, load_initial_weights

__all__ = [
    "BNNeck",
    "Backbone",
    "FORMS",
    "IdentityClassifier",
    "WeightsReport",
    "fill_backbone",
    "load_initial_weights",
    "open_foreign",
    "save_backbone",
]
