"""Networks: timm backbones with Re-ID pooling, stride and neck."""

from diffreid_lightning.backbones.backbone import Backbone
from diffreid_lightning.backbones.checkpoint_layouts import FORMS
from diffreid_lightning.backbones.heads import BNNeck, CosineClassifier, IdentityClassifier
from diffreid_lightning.backbones.initial_weights import WeightsReport, fill_backbone, load_initial_weights
from diffreid_lightning.backbones.third_party_checkpoints import open_foreign
from diffreid_lightning.backbones.timm_export import registered_by, save_backbone

__all__ = [
    "BNNeck",
    "Backbone",
    "CosineClassifier",
    "FORMS",
    "IdentityClassifier",
    "WeightsReport",
    "fill_backbone",
    "load_initial_weights",
    "open_foreign",
    "registered_by",
    "save_backbone",
]
