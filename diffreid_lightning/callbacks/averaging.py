"""Averaged weights at the end of fit, also where a run is taken up after its last epoch."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class FinishAveraging(Callback):
    """Put averaged weights, where a ``WeightAveraging`` callback keeps some, in the place of the current ones.

    Lightning does so when training ends. A run that was killed after its last epoch and is taken up trains nothing, so
    its training does not end either, and the weights of its last step would be exported and tested. Twice does no harm.

    The command line puts this callback before all others, so that whatever is done when fit ends is done with these
    weights.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the averaging end."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)
