"""Optimizer and learning rate of the diffusion side: stepped per batch, warmed up, known by diffusers' names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from diffusers.optimization import get_scheduler
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.resumable_schedule import ResumableSchedule

Schedule = Literal["constant_with_warmup", "cosine", "linear"]


def optimize_by_step(
    module: LightningModule,
    parameters: Iterable[nn.Parameter | dict[str, Any]],
    optimizer: OptimizerCallable,
    schedule: Schedule,
    warmup_steps: int,
) -> dict[str, Any]:
    """Build what ``configure_optimizers`` returns, with a schedule over all steps of the trainer.

    Args:
        module: the module, attached to its trainer.
        parameters: what is trained, or groups of it.
        optimizer: makes the optimizer.
        schedule: course of the rate after the warm-up.
        warmup_steps: optimizer steps over which the rate rises from zero.

    Raises:
        UserError: the schedule falls towards an end, and the training has none.
    """
    made = optimizer(parameters)
    steps = module.trainer.estimated_stepping_batches
    if math.isinf(steps) and schedule != "constant_with_warmup":
        raise UserError(
            f"The schedule {schedule!r} falls towards the end of the training, which is not known.",
            looked_for="trainer.max_epochs or trainer.max_steps",
            remedy="give one of the two, or use --model.schedule constant_with_warmup",
        )
    total = None if math.isinf(steps) else int(steps)
    rate = get_scheduler(schedule, made, num_warmup_steps=warmup_steps, num_training_steps=total)
    schedule_of_steps = ResumableSchedule(made, rate, "step")
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule_of_steps, "interval": "step"}}
