"""Averaged weights: kept where training runs, and in their place at the end of fit."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.trainer_parts import callbacks_of

_HALF = (torch.float16, torch.bfloat16)


class FinishAveraging(Callback):
    """Look after a ``WeightAveraging`` callback, where there is one.

    1. Its average is kept where training runs. Lightning makes it before the module is brought there, on the CPU, and
       would copy the weights from the GPU after every step.
    2. It comes in the place of the current weights. Lightning does so when training ends. A run that was killed after
       its last epoch and is taken up trains nothing, so its training does not end either, and the weights of its last
       step would be exported and tested. Twice does no harm.
    3. It is given up then. Lightning would take a checkpoint that is tested after fit for one to train on from, and
       test the weights that were trained in place of their average.
    4. A checkpoint that is written during a validation (SLURM's signal) has average and trained weights in their own
       places. Lightning exchanges them in memory for the validation, and would write them exchanged.

    The command line puts this callback before all others, so that whatever is done when fit ends is done with these
    weights.
    """

    def __init__(self) -> None:
        self._exchanged: list[RemovableHandle] = []  # while a validation runs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the average's device, where none was chosen; and build the module before SWA copies it."""
        self.on_validation_epoch_end(trainer, pl_module)  # of a fit before, which ended in a validation
        for callback in callbacks_of(trainer):
            if isinstance(callback, StochasticWeightAveraging) and stage == "fit":
                pl_module.configure_model()  # WeightAveraging calls it by itself
            if isinstance(callback, WeightAveraging) and getattr(callback, "_device", "of its own") is None:
                callback._device = trainer.strategy.root_device

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to average weights that are in half precision.

        Raises:
            UserError: trained weights are; each validation would round the average to them.
        """
        if _averages(trainer) and any(each.requires_grad and each.dtype in _HALF for each in pl_module.parameters()):
            raise UserError(
                f"Weights are not averaged in trainer.precision {trainer.precision}.",
                found="a WeightAveraging callback, whose small steps would be rounded to none",
                remedy="use --trainer.precision bf16-mixed or 16-mixed, or leave the callback out",
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have an average tell the module's values as its own, as long as the callback exchanges the two."""

        def tell(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
            state.update({f"module.{name}": value for name, value in pl_module.state_dict().items()})

        self._exchanged = [average.register_state_dict_post_hook(tell) for average in _averages(trainer)]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the average tell its own values again."""
        for handle in self._exchanged:
            handle.remove()
        self._exchanged = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the trained weights as such while the average is in their place; its callback moves them next."""
        for average in _averages(trainer) if self._exchanged else []:
            checkpoint["state_dict"] = average.module.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from averaged weights as if they were trained; give the average the checkpoint's form.

        Raises:
            UserError: the weights are an average that this training does not keep, or the last one of
                ``StochasticWeightAveraging``, whose epoch of statistics counts as one of training.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        _refuse_after_statistics(trainer, checkpoint)
        averaging = [callback for callback in callbacks_of(trainer) if isinstance(callback, WeightAveraging)]
        for callback in averaging:
            averaged = getattr(callback._average_model, "module", None)
            if isinstance(averaged, LightningModule):
                averaged.on_load_checkpoint(checkpoint)  # as Lightning did for the module itself
        if "current_model_state" in checkpoint and not averaging:
            raise UserError(
                "The checkpoint holds averaged weights, and this training averages none.",
                looked_for="a WeightAveraging callback, as the run was begun with",
                remedy="give --trainer.callbacks as the run was started (its config.yaml), or start from its backbone: "
                "--model.init_from RUN/backbone",
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the averaging end."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback.on_train_end(trainer, pl_module)
                callback._average_model = None


def _averages(trainer: Trainer) -> list[AveragedModel]:
    """Return the averages that are kept now."""
    kept = [each._average_model for each in callbacks_of(trainer) if isinstance(each, WeightAveraging)]
    return [average for average in kept if average is not None]


def _refuse_after_statistics(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to train beyond the epoch in which Lightning's SWA has measured batch statistics for its average."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if not name.startswith(StochasticWeightAveraging.__name__) or not state.get("n_averaged"):
            continue
        trained = int(state.get("latest_update_epoch", -1)) + 1
        most = trainer.max_epochs
        if checkpoint["epoch"] >= trained and (most is None or not 0 <= most <= trained):
            raise UserError(
                "The averaging of this run (StochasticWeightAveraging) is complete, and cannot be gone on with.",
                looked_for=f"trainer.max_epochs {trained}, as many as it has trained",
                found=f"trainer.max_epochs {most}; its weights are the average, and an epoch that only measured batch "
                "statistics would count as trained",
                remedy="start a new run from its backbone: --model.init_from RUN/backbone in place of --ckpt_path",
            )
