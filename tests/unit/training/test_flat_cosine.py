"""The flat and falling schedule against torch's own two, under the warm-up and resumed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.lr_warmup import WarmUp
from diffreid_lightning.training.flat_cosine import FlatThenCosine


def optimizer() -> torch.optim.Optimizer:
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 1e-3}], lr=3.5e-4)


def rates(scheduler: lr_scheduler.LRScheduler, epochs: int) -> list[list[float]]:
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_it_is_a_constant_followed_by_torchs_cosine() -> None:
    own, theirs = optimizer(), optimizer()
    constant = lr_scheduler.ConstantLR(theirs, factor=1.0, total_iters=30)
    cosine = lr_scheduler.CosineAnnealingLR(theirs, T_max=30, eta_min=7.7e-7)
    both = lr_scheduler.SequentialLR(theirs, [constant, cosine], milestones=[30])
    found = rates(FlatThenCosine(own, flat=30, total=60, eta_min=7.7e-7), 61)
    for mine, other in zip(found, rates(both, 61), strict=True):
        assert mine == pytest.approx(other, rel=1e-6)
    assert found[29] == [3.5e-4, 1e-3] and found[60] == pytest.approx([7.7e-7, 7.7e-7])


def test_beyond_its_end_the_rate_stays_and_a_resumed_one_goes_on() -> None:
    whole = rates(WarmUp(one := optimizer(), FlatThenCosine(one, 2, 6, 1e-5), epochs=3, factor=0.01), 12)
    assert whole[6:] == [[1e-5, 1e-5]] * 6 and whole[0] == pytest.approx([3.5e-6, 1e-5])
    first = WarmUp(one := optimizer(), FlatThenCosine(one, 2, 6, 1e-5), epochs=3, factor=0.01)
    rates(first, 4)
    second = WarmUp(other := optimizer(), FlatThenCosine(other, 2, 6, 1e-5), epochs=3, factor=0.01)
    second.load_state_dict(first.state_dict())
    assert rates(second, 8) == whole[4:]


@pytest.mark.parametrize("settings", [{"flat": -1}, {"total": 30}, {"total": 0}, {"eta_min": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="FlatThenCosine"):
        FlatThenCosine(optimizer(), **{"flat": 30, "total": 60, **settings})
