"""Log pictures to whichever loggers a trainer has: W&B, TensorBoard, MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from diffreid_lightning.tracking import tolerate_failures


def log_picture(trainer: Trainer, key: str, picture: Image.Image, loggers: list[Any] | None = None) -> None:
    """Log a picture at the trainer's global step; a logger of scalars alone, such as CSVLogger, gets nothing.

    Args:
        trainer: its loggers and step.
        key: name of the picture.
        picture: the picture.
        loggers: some of the trainer's loggers; None means all.
    """
    for logger in trainer.loggers if loggers is None else loggers:
        step = trainer.global_step
        if isinstance(logger, WandbLogger):
            import wandb

            # A picture passes through files of W&B's own before it is logged: both can fail.
            with tolerate_failures(logger):
                logger.experiment.log({key: wandb.Image(picture), "trainer/global_step": step})
        elif isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(key, pixels, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture.convert("RGB"), key=key, step=step)
