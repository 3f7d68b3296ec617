"""Learning-rate warm-up around any schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from diffreid_lightning.errors import UserError


class WarmUp(LRScheduler):
    """Multiply the rates of a schedule while the network warms up (Luo et al., arXiv 1903.07071, section 3.1).

    Epoch e (from 0) trains at ``schedule(e) * (factor + (1 - factor) * e / epochs)`` while e < ``epochs``, and at
    ``schedule(e)`` after that. The schedule sees its own rates only, so recursive schedules (``CosineAnnealingLR``)
    and those in closed form (``LambdaLR``, ``CosineAnnealingWarmRestarts``) are both multiplied exactly.

    Args:
        optimizer: the optimiser whose rates are set, one per parameter group.
        scheduler: the schedule, built on the same optimiser and stepped by this object only; None for constant rates.
        epochs: length of the warm-up, >= 0; 0 leaves the schedule as it is.
        factor: share of the rate that epoch 0 trains at, above 0 and up to 1.

    Raises:
        UserError: the schedule waits for a metric (``ReduceLROnPlateau``), or ``epochs`` or ``factor`` is out of range.
    """

    def __init__(
        self, optimizer: Optimizer, scheduler: LRScheduler | ReduceLROnPlateau | None, epochs: int, factor: float
    ) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "ReduceLROnPlateau cannot be the model's scheduler.",
                looked_for="a schedule of epochs; validation need not run every epoch, or at all",
                remedy="give another class of torch.optim.lr_scheduler: MultiStepLR, CosineAnnealingLR, ...",
            )
        if epochs < 0:
            raise UserError(f"A warm-up cannot last {epochs} epochs.", remedy="give 0 or more; 0 switches it off")
        if not 0 < factor <= 1:
            raise UserError(f"A warm-up cannot start at {factor} of the rate.", looked_for="above 0 and up to 1")
        self.scheduler = scheduler
        self.epochs = epochs
        self.factor = factor
        self._unscaled = [float(group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer)

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch."""
        # The base class's constructor takes the step to epoch 0, which the wrapped schedule's has already taken.
        if self.last_epoch >= 0:
            self._set_rates(self._unscaled)
            if self.scheduler is not None:
                self.scheduler.step()
        self.last_epoch += 1
        self._unscaled = [float(group["lr"]) for group in self.optimizer.param_groups]
        share = warm_up_share(self.last_epoch, self.epochs, self.factor)
        self._last_lr = [rate * share for rate in self._unscaled]
        self._set_rates(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, rates and the schedule's state as plain values."""
        return {
            "last_epoch": self.last_epoch,
            "last_lr": list(self._last_lr),
            "unscaled": list(self._unscaled),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; the optimiser brings its own rates.

        Raises:
            UserError: the state is not of a warm-up around the same kind of schedule.
        """
        wrapped = state_dict.get("scheduler")
        if "unscaled" not in state_dict or (wrapped is None) != (self.scheduler is None):
            raise UserError(
                "The checkpoint was trained with another kind of schedule.",
                remedy="give --model.scheduler as the run was started (its config.yaml)",
            )
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = list(state_dict["last_lr"])
        self._unscaled = list(state_dict["unscaled"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(wrapped)  # type: ignore[arg-type]

    def _set_rates(self, rates: Iterable[float | Tensor]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                # A captured optimiser step reads the tensor it was captured with.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def warm_up_share(epoch: int, epochs: int, factor: float) -> float:
    """Return the share of the scheduled rate that an epoch trains at.

    Args:
        epoch: number of the epoch, from 0.
        epochs: length of the warm-up, >= 0.
        factor: share at epoch 0, 0 to 1.

    Returns:
        ``factor`` at epoch 0, rising linearly to 1 at ``epochs``, and 1 from there on.
    """
    return factor + (1 - factor) * epoch / epochs if epoch < epochs else 1.0
