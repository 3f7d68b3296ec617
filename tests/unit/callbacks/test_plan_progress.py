"""Progress of a prediction counts the images that were made."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from diffreid_lightning.callbacks import plan_progress


@pytest.mark.parametrize(("processes", "told"), [(1, "8 images in"), (2, "16 images in"), (8, "30 images in")])
def test_a_limited_prediction_counts_its_own_images(
    processes: int, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = SimpleNamespace(rows=40, rows_left=30)  # ten are there from an earlier run
    monkeypatch.setattr(plan_progress, "stage_datamodule", lambda _: plan)
    callback, trainer, module = plan_progress.PlanProgress(), SimpleNamespace(world_size=processes), SimpleNamespace()
    any_trainer: Any = trainer
    any_module: Any = module
    callback.on_predict_start(any_trainer, any_module)
    for number in range(2):
        callback.on_predict_batch_end(any_trainer, any_module, SimpleNamespace(rows=range(4)), None, number)
    with caplog.at_level(logging.INFO):
        callback.on_predict_end(any_trainer, any_module)
    assert told in caplog.text
