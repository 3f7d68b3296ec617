"""Build optimizer and learning-rate schedule of diffusion training: per step, with warm-up, diffusers' names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from diffusers.optimization import get_scheduler
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.resumable_schedule import ResumableSchedule, refuse_later_groups
from diffreid_lightning.training.schedule_length import warn_of_long_warm_up_in_steps

Schedule = Literal["constant_with_warmup", "cosine", "linear"]


def optimize_by_step(
    module: LightningModule,
    parameters: Iterable[nn.Parameter | dict[str, Any]],
    optimizer: OptimizerCallable,
    schedule: Schedule,
    warmup_steps: int,
) -> dict[str, Any]:
    """Build the return value of ``configure_optimizers``, with a schedule over all steps of the trainer.

    Args:
        module: the module, attached to its trainer.
        parameters: trained parameters or parameter groups.
        optimizer: builds the optimizer.
        schedule: learning-rate schedule after the warm-up.
        warmup_steps: optimizer steps of linear warm-up from zero.

    Raises:
        UserError: the schedule needs the number of steps, and training has no end; or a callback adds parameters later.
    """
    refuse_later_groups(module.trainer)
    made = optimizer(parameters)
    steps = module.trainer.estimated_stepping_batches
    if math.isinf(steps) and schedule != "constant_with_warmup":
        raise UserError(
            f"The schedule {schedule!r} falls towards the end of the training, which is not known.",
            looked_for="trainer.max_epochs or trainer.max_steps",
            remedy="give one of the two, or use --model.schedule constant_with_warmup",
        )
    warn_of_long_warm_up_in_steps(warmup_steps, module.trainer)
    total = None if math.isinf(steps) else int(steps)
    rate = get_scheduler(schedule, made, num_warmup_steps=warmup_steps, num_training_steps=total)
    schedule_of_steps = ResumableSchedule(made, rate, "step")
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule_of_steps, "interval": "step"}}
