"""Averaged weights: kept where training runs, and in their place at the end of fit."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class TendAveraging(Callback):
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
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and getattr(callback, "_device", "of its own") is None:
                callback._device = trainer.strategy.root_device

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the averaging end."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)
