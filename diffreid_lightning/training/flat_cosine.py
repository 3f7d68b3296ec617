"""Learning-rate schedule that stays, and then falls as a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffreid_lightning.errors import UserError, check_range


class FlatThenCosine(LRScheduler):
    """Keep the rate for some epochs, and let it fall along half a cosine to the end, as fast-reid does.

    Epoch e trains at the rate r while e < ``flat``, then at ``eta_min + (r − eta_min) · (1 + cos πt) / 2`` with
    ``t = (e − flat) / (total − flat)``, and at ``eta_min`` from ``total`` on. It is computed from the epoch alone.

    Args:
        optimizer: the optimizer whose rates are set.
        flat: epochs before the rate falls, >= 0; a number below 1 is their share of ``total``.
        total: epoch at which it has fallen, > ``flat``; the epochs of the training.
        eta_min: rate at the end, >= 0.
        last_epoch: the last epoch that was trained, -1 at the start.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self, optimizer: Optimizer, flat: float, total: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        check_range("FlatThenCosine.flat", flat)
        check_range("FlatThenCosine.eta_min", eta_min)
        check_range("FlatThenCosine.total", total, 1)
        if total <= flat:
            raise UserError(
                f"FlatThenCosine.total must be greater than flat, which is {flat}.",
                found=str(total),
                remedy="give total the epochs of the training, and flat fewer, or their share of total (0.5)",
            )
        self.flat = flat * total if flat < 1 else flat
        self.total = total
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Return the rates of this epoch, one per parameter group."""
        passed = min(max(self.last_epoch - self.flat, 0) / (self.total - self.flat), 1.0)
        share = (1 + math.cos(math.pi * passed)) / 2
        return [self.eta_min + (float(rate) - self.eta_min) * share for rate in self.base_lrs]
