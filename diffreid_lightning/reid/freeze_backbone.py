"""Keep the pre-trained layers as they are in the first epochs."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from diffreid_lightning.backbones import Backbone
from diffreid_lightning.errors import check_range
from diffreid_lightning.training.schedule_length import refuse_lasting_freeze


class FreezeBackbone(Callback):
    """Train the head alone in the first epochs: neck, classifier, pooling and what an architecture adds to its base.

    The pre-trained layers keep their weights and, in evaluation mode, the statistics of their batch norms. Their
    gradients are computed and dropped before each optimizer step, rather than switched off, so that under DDP the
    processes go on exchanging the same parameters. The epoch number decides, so a resumed run goes on alike.

    A module that has other layers in place of some for a second domain names them in ``domain_layers``, a mapping by
    the names inside its backbone's timm model; they are frozen with these.

    Args:
        epochs: epochs in which they are frozen, >= 0 and fewer than are trained.

    Raises:
        UserError: ``epochs`` is negative.
    """

    def __init__(self, epochs: int = 10) -> None:
        check_range("FreezeBackbone.epochs", epochs)
        self.epochs = epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to freeze them to the end.

        Raises:
            UserError: ``epochs`` are as many as are trained, or more.
        """
        refuse_lasting_freeze(self.epochs, trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the pre-trained layers to evaluation, and back to training in the epoch after the frozen ones."""
        if trainer.current_epoch <= self.epochs:
            for backbone in _trained_backbones(pl_module):
                for name, layer in backbone.model.named_children():
                    if f"{name}." not in backbone.new_layers:
                        layer.train(trainer.current_epoch == self.epochs)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients of the pre-trained layers: the optimizer passes parameters without one by."""
        if trainer.current_epoch < self.epochs:
            for backbone in _trained_backbones(pl_module):
                for name, parameter in backbone.model.named_parameters():
                    if not name.startswith(backbone.new_layers):
                        parameter.grad = None
            module: Any = pl_module
            for name, layer in getattr(module, "domain_layers", {}).items():
                if not f"{name}.".startswith(module.backbone.new_layers):
                    layer.zero_grad()


def _trained_backbones(module: LightningModule) -> list[Backbone]:
    """Return a module's backbones, also those of a second network or of folds, without moving averages of others."""
    backbones = [each for each in module.modules() if isinstance(each, Backbone)]
    return [each for each in backbones if any(parameter.requires_grad for parameter in each.parameters())]
