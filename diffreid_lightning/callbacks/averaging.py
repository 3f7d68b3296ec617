"""Averaged weights: kept where training runs, and in their place at the end of fit."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.trainer_parts import callbacks_of


class FinishAveraging(Callback):
    """Look after a ``WeightAveraging`` callback, where there is one.

    1. Its average is kept where training runs. Lightning makes it before the module is brought there, on the CPU, and
       would copy the weights from the GPU after every step.
    2. It comes in the place of the current weights. Lightning does so when training ends. A run that was killed after
       its last epoch and is taken up trains nothing, so its training does not end either, and the weights of its last
       step would be exported and tested. Twice does no harm.

    The command line puts this callback before all others, so that whatever is done when fit ends is done with these
    weights.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the average's device, where none was chosen."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging) and getattr(callback, "_device", "of its own") is None:
                callback._device = trainer.strategy.root_device

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on without averaging from a checkpoint whose weights are the average.

        Raises:
            UserError: they are, and the optimizer's state belongs to those that were trained.
        """
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks_of(trainer))
        if "current_model_state" in checkpoint and not averages and trainer.state.fn == TrainerFn.FITTING:
            raise UserError(
                "The checkpoint holds averaged weights, and this training averages none.",
                looked_for="a WeightAveraging callback, as the run was begun with",
                remedy="give --trainer.callbacks as the run was started (its config.yaml), or start from its backbone: "
                "--model.init_from RUN/backbone",
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the averaging end."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)
