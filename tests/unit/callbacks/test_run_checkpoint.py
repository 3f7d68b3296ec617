"""What was best is remembered where its checkpoint lies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint


@pytest.mark.parametrize("here", [True, False])
def test_a_score_is_taken_up_beside_its_checkpoint_alone(here: bool, tmp_path: Path) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    if here:
        best.parent.mkdir()
        best.write_bytes(b"")
    strategy = SimpleNamespace(broadcast=lambda value: value)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path), strategy=strategy)
    callback = RunCheckpoint()
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    callback.load_state_dict({"best_score": 42.0})
    assert callback.best_score == (42.0 if here else None)
    assert callback.best_model_path == (str(best) if here else "")


def test_a_score_of_another_number_is_not_taken_up(tmp_path: Path) -> None:
    strategy = SimpleNamespace(broadcast=lambda value: True if isinstance(value, bool) else value)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path), strategy=strategy)
    begun = RunCheckpoint(monitor="val/mAP")
    begun.best_score = 42.0
    for monitor, expected in (("val/mAP", 42.0), ("val/rank1", None)):
        callback = RunCheckpoint(monitor=monitor)
        callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
        callback.load_state_dict(begun.state_dict())
        assert callback.best_score == expected


@pytest.mark.parametrize("steps", [3, 5])
def test_the_last_checkpoint_is_of_the_last_step(steps: int, tmp_path: Path) -> None:
    trainer = Trainer(
        max_steps=steps, limit_train_batches=2, limit_val_batches=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        callbacks=[RunCheckpoint(every_n_epochs=2)],
    )  # fmt: skip
    trainer.fit(BoringModel())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
