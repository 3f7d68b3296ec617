"""Callback that exports a trained scorer at the end of fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from diffreid_lightning.datasets.concat import ConcatRows
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.copy_search import nearest, precompute
from diffreid_lightning.filtering.scorer import ScorerTraining, describe_calibration, format_calibration
from diffreid_lightning.filtering.scorer_checkpoint import RealImages, save_scorer
from diffreid_lightning.training.trainer_parts import datamodule_of

_BLOCK = 1024


class ScorerExport(Callback):
    """Calibrate a scorer when fit ends and save it in the run folder, for ``stages/score_generated``.

    The weights are those of the last epoch.

    Args:
        folder: name of the folder inside the run folder.
    """

    def __init__(self, folder: str = "scorer") -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that is no scorer before the training, not after it.

        Raises:
            UserError: it is none.
        """
        if not isinstance(pl_module, ScorerTraining):
            raise UserError(
                f"{type(pl_module).__name__} is not a scorer.",
                looked_for="ScorerTraining",
                remedy="drop ScorerExport from trainer.callbacks, or use --model ScorerTraining",
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate on the training images, and write the folder, on rank zero."""
        assert isinstance(pl_module, ScorerTraining)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        data: Any = datamodule_of(trainer)
        pl_module.to(trainer.strategy.root_device)  # Lightning has moved it back to the CPU
        recognizer, fitted, thumbs = pl_module.build_recognizer(data.seen_dataloader())
        pl_module.cpu()
        rows = data.train_set.rows
        calibration = describe_calibration(fitted, pl_module.calibration, list(rows.identities))
        provenance = {
            "training_data": data.provenance,
            "epochs": trainer.current_epoch,
            "init_from": pl_module.init_from,
        }
        target = Path(trainer.default_root_dir) / self.folder
        save_scorer(recognizer, rows.identities, real_images(rows, thumbs), target, calibration, provenance)
        rank_zero_info(f"Scorer saved: {target}; {format_calibration(calibration)}")


def real_images(rows: ConcatRows, thumbs: Tensor) -> RealImages:
    """List the training images of a scorer, and measure their distances to each other.

    Args:
        rows: the images.
        thumbs: (N, 1536) their thumbnails.
    """
    keys: Sequence[Any] = [rows.identities[label] for label in rows.labels.tolist()]
    table = pa.table(
        {
            "file_name": rows.file_names,
            "source": pa.array([source for source, _, _ in keys], pa.string()),
            "partition": pa.array([partition for _, partition, _ in keys], pa.string()),
            "pid": pa.array([pid for _, _, pid in keys], pa.int64()),
            "root": pa.array(rows.root_of, pa.int64()),
        }
    )
    numbers, others = torch.arange(len(thumbs)), precompute(thumbs)
    blocks = [nearest(thumbs[part], others, exclude=part)[0] for part in numbers.split(_BLOCK)]
    gap = torch.cat(blocks).double().quantile(torch.tensor([0.01, 0.05, 0.5], dtype=torch.float64))
    return RealImages(thumbs, table, [str(root.path) for root in rows.roots], gap.tolist())
