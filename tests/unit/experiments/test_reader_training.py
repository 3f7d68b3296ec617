from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffreid_lightning.errors import RunError
from experiments.instruments.reader_training import Recipe, draw_epoch, train_once


def test_equal_weights_draw_every_row_once():
    rows = draw_epoch(np.full(24, 0.3), 8, np.random.default_rng(0))
    assert rows.shape == (3, 8)
    assert sorted(rows.ravel().tolist()) == list(range(24))


def test_rows_come_up_as_often_as_is_due_to_them():
    weights = np.random.default_rng(1).random(50)
    counts = np.bincount(draw_epoch(weights, 1, np.random.default_rng(2)).ravel(), minlength=50)
    due = 50 * weights / weights.sum()
    assert counts.sum() == 50
    assert (np.abs(counts - due) < 1).all()


def test_the_rate_rises_then_falls_to_nothing():
    recipe = Recipe(epochs=1, rate=0.5, warm_up=0.25)
    rates = [recipe.rate_at(step / 100) for step in range(101)]
    peak = rates.index(max(rates))
    assert (rates[0], rates[peak], peak) == (0, 0.5, 25)
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def task(stop_after: int | None = None):
    """A network, and a loss that ends the run after so many steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    steps = 0

    def loss(rows, generator):
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        noise = torch.randn(len(rows), 4, generator=generator)
        return nn.functional.cross_entropy(network(inputs[rows] + noise).float(), (inputs[rows, 0] > 0).long())

    return network, loss, lambda: steps


RECIPE = Recipe(epochs=4, batch_size=8)


def test_a_run_that_goes_on_ends_like_one_that_was_never_cut_off(tmp_path):
    whole, loss, steps = task()
    train_once(whole, tmp_path / "whole.safetensors", loss, np.ones(32), RECIPE)
    assert steps() == 16
    cut, loss, _ = task(stop_after=10)
    with pytest.raises(KeyboardInterrupt):
        train_once(cut, tmp_path / "cut.safetensors", loss, np.ones(32), RECIPE)
    again, loss, steps = task()
    train_once(again, tmp_path / "cut.safetensors", loss, np.ones(32), RECIPE)
    assert steps() == 8  # the third epoch, cut off in its middle, and the fourth
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.safetensors", "whole.safetensors"]


def test_what_is_trained_is_loaded(tmp_path):
    first, loss, _ = task()
    seconds = train_once(first, tmp_path / "net.safetensors", loss, np.ones(32), RECIPE)
    second, loss, steps = task()
    assert train_once(second, tmp_path / "net.safetensors", loss, np.ones(32), RECIPE) == pytest.approx(
        seconds, abs=0.1
    )
    assert steps() == 0
    assert not second.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_loss_that_breaks_ends_the_run(tmp_path):
    network = nn.Linear(1, 1)
    with pytest.raises(RunError, match="no longer finite"):
        train_once(
            network, tmp_path / "x.safetensors", lambda rows, _: network.weight.sum() * float("nan"), np.ones(4), RECIPE
        )
