"""Checkpoints of a run: the last epoch's, and the one best on held-out identities.

What happens on a kill and on resuming, over all stages: ``docs/guide/runs_and_resuming.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from diffreid_lightning.errors import check_range


class RunCheckpoint(Checkpoint):
    """Keep ``checkpoints/last.ckpt`` and ``checkpoints/best.ckpt`` in the run folder.

    ``last`` is written at epoch boundaries, where training can be continued to the same result, and where
    ``trainer.max_steps`` ends it within an epoch, whose rest is then left out. ``best`` follows
    ``monitor`` at each validation, that is on identities held out of train; without any it is never written. Nothing is
    ever chosen on query and gallery.

    Args:
        monitor: the logged number that decides which epoch is best; more is better.
        every_n_epochs: epochs between two last checkpoints: what a kill can cost. The final epoch is always saved.

    Raises:
        UserError: ``every_n_epochs`` is below 1.
    """

    def __init__(self, monitor: str = "val/mAP", every_n_epochs: int = 1) -> None:
        check_range("RunCheckpoint.every_n_epochs", every_n_epochs, 1)
        self.monitor = monitor
        self.every_n_epochs = every_n_epochs
        self.best_score: float | None = None
        self._folder = Path("checkpoints")
        self._holds_best = False

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint, "" when there is none."""
        return "" if self.best_score is None else str(self._best)

    @property
    def _best(self) -> Path:
        return self._folder / "best.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder; rank zero's holds for all."""
        root = trainer.strategy.broadcast(trainer.default_root_dir)
        self._folder = Path(root) / "checkpoints"
        # Asked once for all: processes that disagreed on what is best would wait for each other for ever.
        self._holds_best = trainer.strategy.broadcast(self._best.is_file())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best."""
        score = trainer.callback_metrics.get(self.monitor)
        if (
            trainer.sanity_checking
            or trainer.state.fn != TrainerFn.FITTING
            or score is None
            or getattr(trainer, "fast_dev_run", False)
        ):
            return
        if self.best_score is None or float(score) > self.best_score:
            self.best_score = float(score)
            trainer.save_checkpoint(self._best, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last."""
        finished = trainer.current_epoch + 1
        final = trainer.should_stop or finished == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        if (finished % self.every_n_epochs == 0 or final) and not getattr(trainer, "fast_dev_run", False):
            trainer.save_checkpoint(self._folder / "last.ckpt", weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Remember the best score across attempts at a run, and of what it is the best."""
        return {"best_score": self.best_score, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score of the earlier attempt, if its checkpoint is in this run's folder.

        It is not where a run is begun from another's checkpoint: a score of that run would name a file that does not
        exist, and keep it from being written. Nor is it where another number decides now.
        """
        same = state_dict.get("monitor", self.monitor) == self.monitor
        self.best_score = state_dict["best_score"] if self._holds_best and same else None
