"""Averaged weights at the end of fit, also where a run is taken up after its last epoch."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


def finish_averaging(trainer: Trainer, pl_module: LightningModule) -> None:
    """Put averaged weights, where a callback keeps some, in the place of the current ones; for ``on_fit_end``.

    Lightning does so when training ends. A run that was killed after its last epoch and is taken up trains nothing, so
    its training does not end either, and it would export the weights of its last step. Twice does no harm.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, pl_module)
