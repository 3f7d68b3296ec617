"""The sum of an epoch's losses, by which a training notices that one of them was not finite."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffreid_lightning.training.finite_weights import stop_unless_finite


class LossSum:
    """Sum of an epoch's losses on the device; it keeps any NaN, so the device is asked once per logging interval.

    Under ``16-mixed`` the weights do not tell: steps with a NaN among the gradients are left out.

    Args:
        warm_up: the option that sets the warm-up, for the remedy.
    """

    def __init__(self, warm_up: str) -> None:
        self._warm_up = warm_up
        self.total = torch.zeros(())  # no buffer: DDP would overwrite it with rank zero's, and a NaN with it

    def start(self, module: LightningModule) -> None:
        """Set the sum to zero, in float32 where the network was converted to another type."""
        self.total = torch.zeros((), dtype=torch.float32, device=module.device)

    def add(self, loss: Tensor) -> None:
        """Add a loss, ()."""
        self.total += loss.detach()

    def watch(self, module: LightningModule, loss: Tensor, batch_idx: int, rate: float) -> None:
        """Add the loss of a batch, and check the sum once per logging interval.

        Args:
            module: the module in training.
            loss: ().
            batch_idx: number of the batch in the epoch.
            rate: the current learning rate, for the message.

        Raises:
            RunError: the sum is not finite, on any process.
        """
        self.add(loss)
        if batch_idx % max(1, getattr(module.trainer, "log_every_n_steps", 50)) == 0:
            self.check(module, rate)

    def check(self, module: LightningModule, rate: float) -> None:
        """Check that the sum is finite, on all processes together.

        Raises:
            RunError: it is not, on any process.
        """
        found = f"loss sum {float(self.total)} on this process"
        stop_unless_finite(module, torch.isfinite(self.total), "training loss is", found, self._warm_up, rate)
