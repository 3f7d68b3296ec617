"""Compare the lengths of a schedule and its phases with that of the training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import CosineAnnealingLR

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.flat_cosine import FlatThenCosine


def epochs_of(trainer: Trainer | None) -> int | None:
    """Return the epochs of a training; None where steps or nothing end it, or where it is only tried out."""
    epochs = getattr(trainer, "max_epochs", None)
    if epochs is None or epochs < 0 or getattr(trainer, "fast_dev_run", False):
        return None
    return None if getattr(trainer, "max_steps", -1) >= 0 else int(epochs)


def warn_of_another_length(scheduler: Any, trainer: Trainer | None) -> None:
    """Warn where a schedule of epochs, which falls once along a cosine, falls over more or fewer than are trained."""
    epochs = epochs_of(trainer)
    if isinstance(scheduler, FlatThenCosine):
        name, length, after = "total", scheduler.total, "the rate stays at its end"
    elif isinstance(scheduler, CosineAnnealingLR):
        name, length, after = "T_max", int(scheduler.T_max), "the rate rises again"
    else:
        return
    if epochs is not None and length != epochs:
        then = f"after epoch {length} {after}" if length < epochs else "the rate does not come to its end"
        rank_zero_warn(
            f"{type(scheduler).__name__} falls over {length} epochs, and trainer.max_epochs is {epochs}: {then}. Give "
            f"--model.scheduler.{name} {epochs}, or '${{trainer.max_epochs}}' in a config."
        )


def warn_of_long_warm_up(warmup_epochs: int, trainer: Trainer | None) -> None:
    """Warn where a warm-up outlasts the training, which then never has the rate that was given."""
    epochs = epochs_of(trainer)
    if epochs is not None and warmup_epochs >= max(epochs, 1):
        rank_zero_warn(
            f"The rate rises over {warmup_epochs} epochs, and trainer.max_epochs is {epochs}: the training never has "
            "all of it. Lower --model.warmup_epochs, or train longer."
        )


def warn_of_long_warm_up_in_steps(warmup_steps: int, trainer: Trainer) -> None:
    """Warn where a warm-up of steps outlasts the training."""
    steps = trainer.estimated_stepping_batches
    if warmup_steps >= max(steps, 1) and not getattr(trainer, "fast_dev_run", False):
        rank_zero_warn(
            f"The rate rises over {warmup_steps} steps, and the training has {steps}: it never has all of it. Lower "
            "--model.warmup_steps, or train longer."
        )


def refuse_lasting_freeze(frozen_epochs: int, trainer: Trainer) -> None:
    """Refuse to freeze pre-trained layers to the end of a training, which would not train what it exports.

    Raises:
        UserError: as many epochs are frozen as there are.
    """
    epochs = epochs_of(trainer)
    if epochs is not None and frozen_epochs >= max(epochs, 1):
        raise UserError(
            "FreezeBackbone would freeze the pre-trained layers to the end: the backbone would stay as it is.",
            looked_for=f"fewer epochs than trainer.max_epochs, which is {epochs}",
            found=f"FreezeBackbone.epochs {frozen_epochs}",
            remedy=f"train longer (--trainer.max_epochs {frozen_epochs + 1} or more), or lower the epochs of "
            "FreezeBackbone in trainer.callbacks",
        )
