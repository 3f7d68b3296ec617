"""Stop a training whose numbers are no longer finite, before its weights are saved over good ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffreid_lightning.errors import RunError


def check_finite_weights(module: LightningModule, tensors: Iterable[Tensor], warm_up: str, rate: float) -> None:
    """Check that weights are finite, on all processes together.

    Args:
        module: the module in training.
        tensors: its trained weights, and the running statistics beside them.
        warm_up: the option that sets the warm-up, for the remedy.
        rate: the current learning rate, for the message.

    Raises:
        RunError: a tensor holds NaN or infinity, on any process.
    """
    found = [tensor.detach().isfinite().all() for tensor in tensors]
    finite = torch.stack(found).all() if found else torch.tensor(True)
    stop_unless_finite(module, finite, "network's weights are", "NaN or infinity", warm_up, rate)


def stop_unless_finite(
    module: LightningModule, finite: Tensor, what: str, found: str, warm_up: str, rate: float
) -> None:
    """Raise on every process where ``finite`` is false on one of them.

    Args:
        module: the module in training.
        finite: () bool, of this process.
        what: subject and verb of the message, such as ``training loss is``.
        found: the value, for the message.
        warm_up: the option that sets the warm-up, for the remedy.
        rate: the current learning rate, for the message.

    Raises:
        RunError: ``finite`` is false on a process.
    """
    # A process that stopped alone would leave the others waiting for its gradients.
    if module.trainer.strategy.reduce_boolean_decision(bool(finite)):
        return
    kept = "; the last checkpoint is from before this epoch" if module.current_epoch else ""
    raise RunError(
        f"The {what} no longer finite (epoch {module.current_epoch}, step {module.global_step}).",
        found=f"{found}, learning rate {rate:.2e}, precision {module.trainer.precision}",
        remedy=f"lower --model.optimizer.lr, lengthen {warm_up}, or use --trainer.precision 32{kept}",
    )
