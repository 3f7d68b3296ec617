"""Report the progress of a ``predict`` stage in images, as lines that suit a log file."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.callbacks.manifest_writer import stage_datamodule
from diffreid_lightning.durations import format_duration
from diffreid_lightning.errors import check_range


class PlanProgress(Callback):
    """Say how many images are done, how fast and how long the rest will take; for predictions with ``rows``.

    Processes share a plan evenly, so the first one's speed times their number stands for all.

    Args:
        every_seconds: between two lines.
    """

    def __init__(self, every_seconds: float = 15.0) -> None:
        check_range("PlanProgress.every_seconds", every_seconds)
        self.every_seconds = every_seconds
        self._began = self._said = 0.0
        self._mine = self._total = self._before = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        data = stage_datamodule(trainer)
        self._began = self._said = time.monotonic()
        self._mine, self._total = 0, data.rows
        self._before = data.rows - data.rows_left

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Count; say so when it is time."""
        self._mine += len(outputs.rows)
        now = time.monotonic()
        if now - self._said >= self.every_seconds:
            self._said = now
            speed = self._mine * trainer.world_size / (now - self._began)
            done = min(self._total, self._before + self._mine * trainer.world_size)
            left = format_duration((self._total - done) / speed)
            rank_zero_info(f"{done} of {self._total} images, {speed:.3g} images/s, {left} left")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum up."""
        seconds = time.monotonic() - self._began
        made = min(self._total - self._before, self._mine * trainer.world_size)  # fewer where batches were limited
        if made:
            rank_zero_info(f"{made} images in {format_duration(seconds)}: {made / seconds:.3g} images/s")
