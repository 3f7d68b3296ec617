"""Rank lists: which queries are shown, and that the frames tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer
from PIL import Image

from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.reid.rank_lists import RankLists, RankRow, choose_queries, draw_rank_lists
from diffreid_lightning.tracking import WandbTracker
from tests.fixtures.color_features import Colors


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_queries_span_the_range_of_average_precision(count: int) -> None:
    values = np.random.default_rng(count).random(40)
    chosen = choose_queries(values, count)
    assert len(set(chosen.tolist())) == min(count, 40)
    assert (np.diff(values[chosen]) >= 0).all()
    assert values[chosen[0]] == values.min()
    if count > 1:
        assert values[chosen[-1]] == values.max()


class Grey:
    """Stands for a set of images."""

    image_size = (32, 16)

    def picture(self, row: int) -> Image.Image:
        return Image.new("RGB", (16, 32), (128, 128, 128))


def test_right_is_green_and_wrong_is_red() -> None:
    rows = [RankRow(0, 0.5, [1, 2], [True, False]), RankRow(3, 1.0, [4], [True])]
    sheet = np.asarray(draw_rank_lists(rows, Grey()))  # type: ignore[arg-type]
    green = (sheet == (34, 160, 70)).all(axis=2).any(axis=1)
    red = (sheet == (214, 50, 48)).all(axis=2).any(axis=1)
    half = len(sheet) // 2
    assert green[:half].any()
    assert red[:half].any()
    assert green[half:].any()
    assert not red[half:].any()


@pytest.mark.parametrize(
    ("period", "between", "drawn"),
    [(10, 1, [10, 20, 30]), (10, 4, [12, 20, 32]), (10, 15, [15, 30]), (3, 2, [4, 6, 10, 12, 16]), (0, 1, [])],
)
def test_the_first_validation_after_each_period_is_drawn(period: int, between: int, drawn: list[int]) -> None:
    callback = RankLists(every_n_epochs=period)
    validated = range(between, max(drawn, default=9) + 1, between)
    in_epochs: Any = SimpleNamespace(check_val_every_n_epoch=between)
    in_batches: Any = SimpleNamespace(check_val_every_n_epoch=None, val_check_batch=7 * between, num_training_batches=7)
    for trainer in (in_epochs, in_batches):
        found = []
        for epoch in validated:
            trainer.current_epoch = epoch - 1
            if callback._is_due(trainer):
                found.append(epoch)
        assert found == drawn


def test_a_table_that_wandb_cannot_take_does_not_stop_the_run(
    data: ReIDDataModule, trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "Image", full)
    run = trainer(RetrievalEvaluator(), RankLists(queries=2))
    run.logger = WandbTracker(save_dir=str(tmp_path))
    with pytest.warns(UserWarning, match="W&B failed while logging"):
        run.test(Colors(), datamodule=data, verbose=False)
    assert (tmp_path / "rank_lists_test.png").is_file()
