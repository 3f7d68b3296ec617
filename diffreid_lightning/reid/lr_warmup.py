"""Learning-rate warm-up around any schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.training.resumable_schedule import Interval, ResumableSchedule, refuse_later_groups
from diffreid_lightning.training.schedule_length import warn_of_another_length, warn_of_long_warm_up


class WarmUp(ResumableSchedule):
    """Multiply the rates of a schedule while the network warms up (Luo et al., arXiv 1903.07071, section 3.1).

    Epoch e (from 0) trains at ``schedule(e) * (factor + (1 - factor) * e / epochs)`` while e < ``epochs``, and at
    ``schedule(e)`` after that. The schedule sees its own rates only, so recursive schedules (``CosineAnnealingLR``)
    and those in closed form (``LambdaLR``, ``CosineAnnealingWarmRestarts``) are both multiplied exactly. Stepped once
    an optimizer step, s of them an epoch, step n trains at ``schedule(n)`` times the same with n / s for e.

    Args:
        optimizer: the optimizer whose rates are set, one per parameter group.
        scheduler: the schedule, built on the same optimizer and stepped by this object only; None for constant rates.
        epochs: length of the warm-up, >= 0; 0 leaves the schedule as it is.
        factor: share of the rate that epoch 0 trains at, above 0 and up to 1.
        interval: how often Lightning steps it.
        steps_per_epoch: s, how often it is stepped in an epoch; 1 under the interval ``epoch``.

    Raises:
        UserError: the schedule waits for a metric (``ReduceLROnPlateau``) or counts batches and is stepped once an
            epoch (``OneCycleLR``, ``CyclicLR``), or ``epochs`` or ``factor`` is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | ReduceLROnPlateau | None,
        epochs: int,
        factor: float,
        interval: Interval = "epoch",
        steps_per_epoch: int = 1,
    ) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "ReduceLROnPlateau cannot be the model's scheduler.",
                looked_for="a schedule of epochs; validation need not run every epoch, or at all",
                remedy="give another class of torch.optim.lr_scheduler: MultiStepLR, CosineAnnealingLR, ...",
            )
        per_batch = [type(part).__name__ for part in parts_of(scheduler) if isinstance(part, (OneCycleLR, CyclicLR))]
        if interval == "epoch" and per_batch:
            raise UserError(
                f"{per_batch[0]} is a schedule of batches, and would be stepped once an epoch.",
                remedy="step it after every batch: --model.scheduler_interval step",
            )
        check_range("WarmUp.epochs", epochs)
        check_range("WarmUp.factor", factor, 0, 1, above=True)
        self.epochs = epochs
        self.factor = factor
        self._length = epochs * (steps_per_epoch if interval == "step" else 1)
        super().__init__(optimizer, scheduler, interval)

    def share(self) -> float:
        """Return the share of the scheduled rate: ``factor`` at first, rising linearly to 1 at the warm-up's end."""
        place, length = self.last_epoch, self._length
        return self.factor + (1 - self.factor) * place / length if place < length else 1.0


def parts_of(scheduler: Any) -> Iterator[Any]:
    """Walk a schedule and those it is made of (``SequentialLR``, ``ChainedScheduler``)."""
    if scheduler is not None:
        yield scheduler
        for part in getattr(scheduler, "_schedulers", ()):
            yield from parts_of(part)


def optimize_with_warm_up(
    optimizer: Optimizer,
    scheduler: LRSchedulerCallable | None,
    warmup_epochs: int,
    warmup_factor: float,
    interval: Interval,
    trainer: Trainer | None,
) -> dict[str, Any]:
    """Build what ``configure_optimizers`` returns.

    Args:
        optimizer: the optimizer.
        scheduler: makes the schedule; None for constant rates.
        warmup_epochs: length of the warm-up.
        warmup_factor: share of the rate that it starts at.
        interval: how often the schedule is stepped.
        trainer: the module's, which knows how many steps an epoch has; needed under the interval ``step``.

    Raises:
        UserError: the schedule cannot be built, cannot be stepped so, or ends before the training does; or a callback
            adds parameters later.
    """
    refuse_later_groups(trainer)
    steps_per_epoch = 1
    try:
        made = None if scheduler is None else scheduler(optimizer)
    except KeyError as error:  # torch's, where last_epoch says that the schedule has begun before
        raise UserError(
            "The schedule cannot be built in the middle of its course.",
            found=" ".join(str(error.args[0]).split("\n")[0].split()),
            remedy="leave --model.scheduler.last_epoch at -1; a continued training finds its place by itself",
        ) from error
    if interval == "step" and trainer is not None:
        _refuse_early_end(made, trainer)
        steps_per_epoch = _steps_per_epoch(trainer) if warmup_epochs > 0 else 1
    elif interval == "epoch":
        warn_of_another_length(made, trainer)
    warn_of_long_warm_up(warmup_epochs, trainer)
    schedule = WarmUp(optimizer, made, warmup_epochs, warmup_factor, interval, steps_per_epoch)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}


def _steps_per_epoch(trainer: Trainer) -> int:
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):
        raise UserError(
            "The warm-up is counted in epochs, and the data do not say how many batches an epoch has.",
            remedy="use --model.warmup_epochs 0, or --model.scheduler_interval epoch",
        )
    return math.ceil(batches / trainer.accumulate_grad_batches)


def _refuse_early_end(scheduler: Any, trainer: Trainer) -> None:
    """Refuse at once a cycle that would end in an error in the middle of the training."""
    totals = [part.total_steps for part in parts_of(scheduler) if isinstance(part, OneCycleLR)]
    if not totals:
        return
    steps = trainer.estimated_stepping_batches
    if min(totals) < steps:
        raise UserError(
            "OneCycleLR ends before the training does.",
            looked_for=f"a cycle of {steps} steps, as trainer.max_epochs or trainer.max_steps gives",
            found=f"{min(totals)} steps (total_steps, or epochs x steps_per_epoch)",
            remedy=f"give --model.scheduler.total_steps {steps}"
            if not math.isinf(steps)
            else "give --trainer.max_steps, or another schedule",
        )
