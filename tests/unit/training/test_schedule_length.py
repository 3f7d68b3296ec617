"""Schedules and phases beside the length of the training."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import lr_scheduler

from diffreid_lightning.config_files import find_config, load_config
from diffreid_lightning.diffusion import lr_schedule
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.freeze_backbone import FreezeBackbone
from diffreid_lightning.reid.lr_warmup import optimize_with_warm_up
from diffreid_lightning.training.flat_cosine import FlatThenCosine


def build(schedule: Any, epochs: int = 12, warmup: int = 0, interval: Any = "epoch", **settings: Any) -> Any:
    """Build the schedule of a training, beside a trainer of these settings."""
    trainer: Any = SimpleNamespace(max_epochs=epochs, **settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimize_with_warm_up(optimizer, schedule, warmup, 0.01, interval, trainer)["lr_scheduler"]["scheduler"]


@pytest.mark.parametrize(
    ("schedule", "epochs", "words"),
    [
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 6), 12, "T_max 12"),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 20), 12, "does not come to its end"),
        (lambda o: FlatThenCosine(o, 2, 6), 12, "total 12"),
    ],
)
def test_a_schedule_of_another_length_is_warned_of(schedule: Any, epochs: int, words: str) -> None:
    with pytest.warns(UserWarning, match=rf"trainer\.max_epochs is {epochs}.*{words}"):
        build(schedule, epochs)


@pytest.mark.parametrize("settings", [{}, {"epochs": -1}, {"fast_dev_run": 1, "epochs": 1}, {"max_steps": 30}])
def test_a_schedule_of_this_length_or_beside_none_is_not(settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(lambda o: lr_scheduler.CosineAnnealingLR(o, 12), **settings)
        build(lambda o: lr_scheduler.MultiStepLR(o, [40, 70]), **settings)


@pytest.mark.parametrize("recipe", ["mgn_market1501", "transreid_market1501"])
def test_the_schedules_of_recipes_follow_the_training(recipe: str) -> None:
    settings = load_config(find_config(f"recipes/{recipe}"))["model"]["init_args"]["scheduler"]["init_args"]
    assert "${trainer.max_epochs}" in settings.values()


def test_a_flat_part_may_be_a_share() -> None:
    one, other = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2))
    share, epochs = FlatThenCosine(one, 0.5, 60), FlatThenCosine(other, 30, 60)
    for _ in range(61):
        assert share.get_last_lr() == epochs.get_last_lr()
        for schedule in (share, epochs):
            schedule.optimizer.step()
            schedule.step()
    FlatThenCosine(one, 0.5, 1)


# Phases that outlast the training.


def test_a_warm_up_that_outlasts_the_training_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"rises over 12 epochs, and trainer\.max_epochs is 12"):
        build(None, warmup=12)
    monkeypatch.setattr(lr_schedule, "get_scheduler", lambda *_, **__: None)
    module: Any = SimpleNamespace(trainer=SimpleNamespace(estimated_stepping_batches=20))
    weights = [nn.Parameter(torch.zeros(1))]
    with pytest.warns(UserWarning, match="rises over 20 steps, and the training has 20"):
        lr_schedule.optimize_by_step(module, weights, torch.optim.AdamW, "cosine", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(None, warmup=11)
        build(None, warmup=11, epochs=-1)
        lr_schedule.optimize_by_step(module, weights, torch.optim.AdamW, "cosine", 19)
        module.trainer.estimated_stepping_batches = float("inf")
        lr_schedule.optimize_by_step(module, weights, torch.optim.AdamW, "constant_with_warmup", 20)


def test_layers_are_not_frozen_to_the_end() -> None:
    module, trainer = LightningModule(), SimpleNamespace(max_epochs=10)
    with pytest.raises(UserError, match=r"(?s)FreezeBackbone.*--trainer\.max_epochs 11"):
        FreezeBackbone(epochs=10).on_fit_start(cast(Any, trainer), module)
    FreezeBackbone(epochs=9).on_fit_start(cast(Any, trainer), module)
    for tried_out in (SimpleNamespace(max_epochs=1, fast_dev_run=1), SimpleNamespace(max_epochs=-1, max_steps=100)):
        FreezeBackbone(epochs=10).on_fit_start(cast(Any, tried_out), module)
