"""A continued training takes rates and options from its configuration, its place and moments from the checkpoint."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.optim import lr_scheduler

from diffreid_lightning.diffusion.lr_schedule import optimize_by_step
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.freeze_backbone import FreezeBackbone
from diffreid_lightning.reid.lr_warmup import WarmUp, optimize_with_warm_up
from diffreid_lightning.training.resumable_schedule import ResumableSchedule

Make = Callable[[torch.optim.Optimizer], Any]


def cosine(length: int) -> Make:
    return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length)


def chained(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


SCHEDULES: dict[str, Make] = {
    "a cosine": cosine(9),
    "milestones": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [4, 6]),
    "a function": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "one after another": chained,
    "a cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=9),
    "none": lambda optimizer: None,
}


def training(make: Make, *, epochs: int = 2, **options: Any) -> WarmUp:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], **{"lr": 0.1, **options})
    return WarmUp(optimizer, make(optimizer), epochs=epochs, factor=0.1, interval="step")


def train(schedule: ResumableSchedule, steps: int) -> list[tuple[float, Any]]:
    """Take steps, and return the rate and the betas of each."""
    seen = []
    for _ in range(steps):
        group = schedule.optimizer.param_groups[0]
        seen.append((float(group["lr"]), group["betas"]))
        group["params"][0].grad = torch.ones(2)
        schedule.optimizer.step()
        schedule.step()
    return seen


def go_on(begun: ResumableSchedule, schedule: ResumableSchedule) -> ResumableSchedule:
    """Restore a training from another's state as Lightning does, by way of a file."""
    file = io.BytesIO()
    torch.save((begun.optimizer.state_dict(), begun.state_dict()), file)
    file.seek(0)
    optimizer, state = torch.load(file, weights_only=True)
    schedule.optimizer.load_state_dict(optimizer)
    schedule.load_state_dict(state)
    return schedule


@pytest.mark.parametrize("begun", SCHEDULES)
@pytest.mark.parametrize("now", SCHEDULES)
def test_the_rates_are_those_of_a_training_that_began_with_them(begun: str, now: str) -> None:
    whole = train(training(SCHEDULES[now], lr=0.2), 9)
    first = training(SCHEDULES[begun])
    train(first, 4)
    second = go_on(first, training(SCHEDULES[now], lr=0.2))
    assert train(second, 5) == whole[4:]


def test_more_epochs_follow_the_longer_cosine() -> None:
    short = training(cosine(3))
    train(short, 3)
    assert train(go_on(short, training(cosine(9))), 6) == train(training(cosine(9)), 9)[3:]


def test_a_schedule_that_has_moved_on_goes_back() -> None:
    begun, moved = training(cosine(9)), training(cosine(9))
    train(begun, 2)
    train(moved, 5)
    assert train(go_on(begun, moved), 7) == train(training(cosine(9)), 9)[2:]


def test_options_that_have_changed_are_in_force_and_the_moments_stay() -> None:
    begun = training(SCHEDULES["none"], weight_decay=0.5)
    train(begun, 3)
    begun.optimizer.param_groups[0]["eps"] = 0.125  # as an optimizer that counts in its options
    after = go_on(begun, training(SCHEDULES["none"], weight_decay=0.0, betas=(0.5, 0.6), foreach=False))
    group = after.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["foreach"]) == (0.0, (0.5, 0.6), False)
    assert group["eps"] == 0.125, "not configured otherwise since: what the optimizer made of it"
    moments = [next(iter(each.optimizer.state.values()))["exp_avg"] for each in (begun, after)]
    assert torch.equal(*moments)
    # Twice over: what the second training was configured with is what the third is compared with.
    train(after, 1)
    group = go_on(after, training(SCHEDULES["none"], weight_decay=0.5)).optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.9, 0.999))


@pytest.mark.parametrize("option", ["amsgrad", "capturable", "differentiable", "fused"])
def test_an_option_that_wants_another_state_is_refused(option: str) -> None:
    begun = training(SCHEDULES["none"])
    train(begun, 1)
    with pytest.raises(UserError, match=option):
        go_on(begun, training(SCHEDULES["none"], **{option: True}))


def test_a_momentum_that_begins_is_refused() -> None:
    def sgd(momentum: float) -> ResumableSchedule:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=momentum)
        return ResumableSchedule(optimizer, None)

    with pytest.raises(UserError, match="momentum"):
        go_on(sgd(0.0), sgd(0.9))
    assert go_on(sgd(0.5), sgd(0.9)).optimizer.param_groups[0]["momentum"] == 0.9


def test_states_of_something_else_are_refused() -> None:
    state = training(cosine(9)).state_dict()
    here = training(cosine(9))
    for other, named in (
        ({**state, "optimizer": "SGD"}, "another optimizer"),
        ({**state, "interval": "epoch"}, "stepped once per epoch"),
        (lr_scheduler.StepLR(here.optimizer, 3).state_dict(), "another kind of schedule"),
    ):
        with pytest.raises(UserError, match=named):
            here.load_state_dict(copy.deepcopy(other))


def test_the_state_of_an_earlier_form_still_says_its_place() -> None:
    whole = train(training(cosine(9)), 9)
    here = training(cosine(9))
    here.load_state_dict({"last_epoch": 4, "last_lr": [0.0], "unscaled": [0.0], "scheduler": {"last_epoch": 4}})
    assert train(here, 5) == whole[4:]


def test_a_warm_up_of_steps_rises_within_the_epochs() -> None:
    def warm(interval: Any, steps: int) -> WarmUp:
        optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=1.0)
        return WarmUp(optimizer, None, epochs=2, factor=0.1, interval=interval, steps_per_epoch=steps)

    epochs = [rate for rate, _ in train(warm("epoch", 4), 4)]
    steps = [rate for rate, _ in train(warm("step", 4), 16)]
    assert steps[::4] == pytest.approx(epochs), "the first step of an epoch has the epoch's rate"
    assert steps == sorted(steps) and len(set(steps[:9])) == 9


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "one in a sequence"])
def test_a_schedule_of_batches_is_not_stepped_once_an_epoch(name: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    cyclic = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1)
    schedule: Any = {
        "OneCycleLR": lambda: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9),
        "CyclicLR": lambda: cyclic,
        "one in a sequence": lambda: lr_scheduler.ChainedScheduler([cyclic], optimizer),
    }[name]()
    with pytest.raises(UserError, match="scheduler_interval step"):
        WarmUp(optimizer, schedule, 0, 0.1)
    WarmUp(optimizer, schedule, 0, 0.1, interval="step")


class Thaw(BackboneFinetuning):
    """Lightning's callback, which adds the backbone to the optimizer in a later epoch."""


def test_callbacks_that_add_parameters_later_are_refused() -> None:
    trainer: Any = SimpleNamespace(callbacks=[FreezeBackbone(epochs=1), Thaw()])
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    with pytest.raises(UserError, match=r"(?s)Thaw adds parameters.*FreezeBackbone"):
        optimize_with_warm_up(optimizer, None, 0, 0.1, "epoch", trainer)
    module: Any = SimpleNamespace(trainer=trainer)
    with pytest.raises(UserError, match="Thaw adds parameters"):
        optimize_by_step(module, [nn.Parameter(torch.ones(2))], torch.optim.Adam, "constant_with_warmup", 0)
    del trainer.callbacks[-1]
    assert optimize_with_warm_up(optimizer, None, 0, 0.1, "epoch", trainer)["optimizer"] is optimizer
