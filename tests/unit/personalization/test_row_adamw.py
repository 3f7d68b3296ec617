"""Rows that are touched move as AdamW would move them alone; rows that are not do not move."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from diffreid_lightning.personalization.row_adamw import RowAdamW

SETTINGS = {"lr": 0.03, "betas": (0.8, 0.97), "eps": 1e-7, "weight_decay": 0.1}


def table(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


def gradients(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3)])
@pytest.mark.parametrize("by_row", [True, False])
def test_it_is_adamw_where_every_row_has_a_gradient(shape: tuple[int, ...], by_row: bool) -> None:
    ours, theirs = table(*shape), table(*shape)
    pairs = [
        (ours, RowAdamW([{"params": [ours], "by_row": by_row}], **SETTINGS)),
        (theirs, AdamW([theirs], **SETTINGS)),
    ]
    for gradient in gradients(shape, 7):
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(ours, theirs)


def test_each_row_moves_as_if_the_others_and_its_idle_steps_did_not_exist() -> None:
    rows, steps = 6, 40
    ours = table(rows, 3)
    optimizer = RowAdamW([{"params": [ours], "by_row": True}], **SETTINGS)
    alone = [torch.nn.Parameter(row.detach().clone()) for row in table(rows, 3)]
    each = [AdamW([row], **SETTINGS) for row in alone]
    chance = torch.Generator().manual_seed(2)
    for gradient in gradients((rows, 3), steps):
        touched = torch.rand(rows, generator=chance) < 0.3
        touched[-1] = False
        before = ours.detach().clone()
        ours.grad = gradient * touched[:, None]
        optimizer.step()
        assert torch.equal(ours[~touched], before[~touched])
        for number in touched.nonzero().flatten().tolist():
            alone[number].grad = gradient[number].clone()
            each[number].step()
    torch.testing.assert_close(ours, torch.stack([row.detach() for row in alone]))
    assert torch.equal(ours[-1], table(rows, 3)[-1])


def test_a_row_first_seen_late_moves_by_no_more_than_the_learning_rate() -> None:
    ours = table(2, 8)
    optimizer = RowAdamW([{"params": [ours], "by_row": True}], lr=0.01)
    ours.grad = torch.tensor([[1.0], [0.0]]).expand(2, 8).clone()
    for _ in range(200):
        optimizer.step()
    before = ours[1].detach().clone()
    ours.grad = gradients((2, 8), 1)[0]
    optimizer.step()
    assert float((ours[1].detach() - before).abs().max()) == pytest.approx(0.01, rel=1e-3)


def test_a_saved_optimizer_goes_on_where_it_was() -> None:
    ours = table(4, 3)
    weight = table(2)
    groups = [{"params": [ours], "by_row": True}, {"params": [weight]}]
    optimizer = RowAdamW(groups, **SETTINGS)
    steps = gradients((4, 3), 6)

    def go(parameters: tuple[torch.nn.Parameter, torch.nn.Parameter], used: RowAdamW, part: slice) -> None:
        for number, gradient in enumerate(steps[part]):
            parameters[0].grad = gradient * (torch.arange(4) != number % 3)[:, None]
            parameters[1].grad = gradient[0, :2].clone()
            used.step()

    go((ours, weight), optimizer, slice(0, 3))
    copies = (torch.nn.Parameter(ours.detach().clone()), torch.nn.Parameter(weight.detach().clone()))
    again = RowAdamW([{"params": [copies[0]], "by_row": True}, {"params": [copies[1]]}], **SETTINGS)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go((ours, weight), optimizer, slice(3, 6))
    go(copies, again, slice(3, 6))
    assert torch.equal(ours, copies[0])
    assert torch.equal(weight, copies[1])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="betas"):
        RowAdamW([table(1, 1)], betas=(0.9, 1.0))
