"""The optimizers of a training, checked before its first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.training_state import TrainingState


def begin(optimizer: torch.optim.Optimizer) -> None:
    trainer: Any = SimpleNamespace(optimizers=[optimizer], precision="16-true")
    TrainingState().on_train_start(trainer, cast(LightningModule, None))


def adam(dtype: torch.dtype = torch.float32) -> torch.optim.Adam:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(2, dtype=dtype))])


def test_another_optimizers_options_are_refused() -> None:
    """A checkpoint without a schedule, or of an earlier version, does not name its optimizer."""
    optimizer = adam()
    optimizer.load_state_dict(torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))]).state_dict())
    with pytest.raises(UserError, match=r"belongs to another optimizer\.\n.*\n.*none of betas, eps"):
        begin(optimizer)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-8), (torch.float32, 1e-8)])
def test_an_eps_that_is_zero_in_the_weights_type_is_raised(dtype: torch.dtype, eps: float) -> None:
    optimizer = adam(dtype)
    begin(optimizer)
    assert optimizer.param_groups[0]["eps"] == eps
