"""Export the trained backbone as a timm folder, at the end of fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.backbones import Backbone, BNNeck, registered_by, save_backbone
from diffreid_lightning.backbones.timm_export import refuse_other_content
from diffreid_lightning.backbones.weight_provenance import (
    TRAINED_IDENTITIES,
    initialization_record,
    trained_identities,
)
from diffreid_lightning.datasets.training_rows import hash_identities
from diffreid_lightning.reid.base import ReIDModule
from diffreid_lightning.run_summary import PROVENANCE_FILE
from diffreid_lightning.storage.json_notes import read_sound_json
from diffreid_lightning.training.trainer_parts import datamodule_of


def exported_network(module: LightningModule) -> tuple[Backbone, BNNeck | None] | None:
    """Return the backbone of a module, and its neck where it is a Re-ID module; None if it has none."""
    if isinstance(module, ReIDModule):
        return module.network
    backbone = getattr(module, "backbone", None)
    return (backbone, None) if isinstance(backbone, Backbone) else None


class BackboneExport(Callback):
    """Save ``backbone/`` in the run folder when fit ends: what ``timm.create_model("local-dir:...")`` opens.

    An architecture of :mod:`~diffreid_lightning.backbones.architectures` (``resnet50_mgn``) is saved whole, part heads
    included, and timm opens it once ``diffreid_lightning.backbones`` is imported.

    The weights are those of the last epoch. The folder says where they come from: training manifests by content hash,
    architecture, stride, pooling, input size, mean and std; ``--model.init_from`` applies all of it again. A module of
    your own is exported if its attribute ``backbone`` is a :class:`~diffreid_lightning.backbones.Backbone`.

    Args:
        folder: name of the folder inside the run folder.
    """

    def __init__(self, folder: str = "backbone") -> None:
        self.folder = folder
        self._has_trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a folder that somebody has added to before the training, not after it."""
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            refuse_other_content(Path(trainer.default_root_dir) / self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something left to train."""
        self._has_trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder on rank zero."""
        trained = exported_network(pl_module)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or trained is None:
            return
        backbone, neck = trained
        if trainer.global_step == 0:
            rank_zero_info("No backbone is saved: the training ended before its first step.")
            return
        init_from = getattr(pl_module, "init_from", None)
        data = datamodule_of(trainer)
        people = hash_identities(getattr(data, "training_identities", []))
        provenance: dict[str, Any] = {
            "training_data": getattr(data, "provenance", {}),
            TRAINED_IDENTITIES: sorted(trained_identities(init_from).union(people)),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "module": type(pl_module).__name__,
            "init_from": init_from,
            "feature": getattr(pl_module, "feature", None),
            "flip_average": getattr(pl_module, "flip_average", None),
            "initialization": initialization_record(init_from),
        }
        target = Path(trainer.default_root_dir) / self.folder
        if self._has_trained or _steps_behind(target) != trainer.global_step:
            save_backbone(backbone, target, provenance=provenance, neck=neck)  # else it tells how it was trained
        differs = bool(backbone.edits) or backbone.pooling != "native"
        note = "; for the same features timm must be told what provenance.json says ('Weights' in the docs)"
        note *= differs
        package = registered_by(backbone)
        first = "" if package is None else f"import {package}; "
        rank_zero_info(f"Backbone saved: {first}timm.create_model('local-dir:{target}', pretrained=True){note}")


def _steps_behind(folder: Path) -> Any:
    """Return the steps that an exported backbone says it was trained for; None if it says nothing."""
    training = (read_sound_json(folder / PROVENANCE_FILE) or {}).get("training")
    return training.get("steps") if isinstance(training, dict) else None
