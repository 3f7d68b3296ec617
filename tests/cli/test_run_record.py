"""When a run is written down, and what the progress bar shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from diffreid_lightning.cli.run_record import RunProgress
from tests.cli.conftest import TINY
from tests.wandb_records import runs_under

Command = Callable[..., int]


def test_the_progress_bar_shows_no_piece_of_a_version(tmp_path: Path) -> None:
    bar = RunProgress()
    trainer = Trainer(logger=CSVLogger(tmp_path, version="attempt-1"), callbacks=[bar], accelerator="cpu")
    assert "v_num" not in bar.get_metrics(trainer, BoringModel())


def test_every_command_that_makes_something_is_recorded(tracked: Command, market: Path, tmp_path: Path) -> None:
    words = [f"--data.train={market}", *TINY]
    assert tracked("fit", *words, "--test_with=none", "--trainer.num_sanity_val_steps=1") == 0
    for verb in ("test", "validate", "predict"):
        assert tracked(verb, "--ckpt_path=runs/reid/fit-001") == 0
    runs = sorted((tmp_path / "runs/reid").iterdir())
    assert [run.name for run in runs] == ["fit-001", "predict-004", "test-002", "validate-003"]
    for run in runs:
        assert (run / "config.yaml").is_file()
        assert len(runs_under(run)) == 1
