"""The optimizers of a training, checked before its first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.errors import UserError
from diffreid_lightning.training.training_state import TrainingStateCheck


def begin(optimizer: torch.optim.Optimizer) -> None:
    trainer: Any = SimpleNamespace(optimizers=[optimizer], precision="16-true", max_steps=-1)
    TrainingStateCheck().on_train_start(trainer, cast(LightningModule, None))


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


def test_steps_are_counted_in_any_number() -> None:
    optimizer = adam()
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    for step in (3, 3.0, torch.tensor(3.0)):
        state["step"] = step
        begin(optimizer)
    for step in ("3", True, float("nan"), torch.zeros(2)):
        state["step"] = step
        with pytest.raises(UserError, match=r"found: +step"):
            begin(optimizer)


@pytest.mark.parametrize("rate", [float("inf"), float("nan")])
def test_a_learning_rate_that_is_no_number_is_refused(rate: float) -> None:
    optimizer = adam()
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(UserError, match=rf"learning rate of Adam is {rate}"):
        begin(optimizer)


@pytest.mark.filterwarnings("ignore")
def test_no_epoch_is_left_out_where_the_steps_are_limited(tmp_path: Path) -> None:
    def fit(epochs: int, steps: int, checkpoint: str | None = None) -> Trainer:
        trainer = Trainer(
            max_epochs=epochs,
            max_steps=steps,
            limit_train_batches=3,
            limit_val_batches=1,
            accelerator="cpu",
            logger=False,
            default_root_dir=tmp_path,
            callbacks=[TrainingStateCheck(), RunCheckpoint()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(BoringModel(), ckpt_path=checkpoint, weights_only=True)
        return trainer

    fit(1, -1)
    last = str(next(tmp_path.rglob("last.ckpt")))
    going_on = fit(3, 100, last)
    assert (going_on.global_step, going_on.current_epoch) == (9, 3)
    assert fit(4, 11, last).global_step == 11
