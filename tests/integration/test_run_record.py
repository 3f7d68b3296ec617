"""When a run is written down, and what the progress bar shows."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from diffreid_lightning.cli.run_folder import RunFolder
from diffreid_lightning.cli.run_record import RunProgress, place_logger
from diffreid_lightning.run_summary import RunSummary, read_summary
from diffreid_lightning.tracking import WandbTracker
from tests.fixtures.command_line import TINY
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]


def test_the_progress_bar_shows_no_piece_of_a_version(tmp_path: Path) -> None:
    bar = RunProgress()
    trainer = Trainer(logger=CSVLogger(tmp_path, version="attempt-1"), callbacks=[bar], accelerator="cpu")
    assert "v_num" not in bar.get_metrics(trainer, BoringModel())


def test_every_command_that_makes_something_is_recorded(
    evaluated: Path, command: Command, market: Path, tmp_path: Path
) -> None:
    runs = sorted((evaluated / "reid").iterdir())
    assert [run.name for run in runs] == ["fit-001", "predict-004", "test-002", "validate-003"]
    for run in runs:
        assert (run / "config.yaml").is_file()
        assert len(runs_under(run)) == 1
    fit, prediction, test, validation = (read_summary(run) for run in runs)
    assert fit is not None and prediction is not None and test is not None and validation is not None
    assert prediction.command == "predict" and set(prediction.seconds) == {"predict"}
    assert fit.device["peak_memory_gib"] > 0.05 and prediction.device["memory_gib"] is None, "there is no GPU"
    check_summaries(fit, test, validation, evaluated / "reid")
    # A run that starts from these weights knows what is behind them.
    words = [f"--data.train={market}", *TINY, f"--model.init_from={runs[0] / 'backbone'}", "--trainer.max_steps=1"]
    assert command("fit", *words, "--trainer.max_epochs=1", "--test_with=none", "--seed_everything=7") == 0
    second = read_summary(tmp_path / "runs/reid/fit-001")
    assert second is not None and second.selection is None and "test" not in second.metrics
    assert (second.seed, second.steps, second.total_steps) == (7, 1, fit.steps + 1)
    assert second.initialization["sources"] == ["market1501"]


def test_a_fit_with_nothing_left_to_train_keeps_what_describes_its_training(
    command: Command, market: Path, tmp_path: Path
) -> None:
    words = ("fit", f"--data.train={market}", *TINY, "--data.val_share=0", "--trainer.max_epochs=1", "--test_with=none")
    assert command(*words, "--seed_everything=1") == 0
    run = tmp_path / "runs/reid/fit-001"
    first, provenance = read_summary(run), (run / "backbone/provenance.json").read_bytes()
    assert command(*words, "--seed_everything=2", "--ckpt_path=last") == 0
    again = read_summary(run)
    assert first is not None and again is not None
    assert (first.attempt, again.attempt) == (1, 2)
    for name in ("seed", "config_sha256", "data", "initialization", "metrics", "steps", "epochs"):
        assert getattr(again, name) == getattr(first, name), name
    assert (run / "backbone/provenance.json").read_bytes() == provenance


def check_summaries(fit: RunSummary, test: RunSummary, validation: RunSummary, root: Path) -> None:
    """Compare what three commands left of one training."""
    assert [each.command for each in (fit, test, validation)] == ["fit", "test", "validate"]
    assert fit.config_sha256 == hashlib.sha256((root / "fit-001/config.yaml").read_bytes()).hexdigest()
    assert fit.run_id == json.loads((root / "fit-001/run.json").read_text())["run_id"]
    assert set(fit.metrics) == {"train", "val", "test"}
    assert fit.selection == test.selection == validation.selection == "last"
    (row,) = csv.DictReader((root / "test-002/results.csv").open())
    for name in ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"):
        assert test.metrics["test"][name] == pytest.approx(float(row[name]), abs=1e-3)
    assert validation.metrics["val"]["mAP"] == pytest.approx(fit.metrics["val"]["mAP"], abs=1e-4)
    assert fit.steps > fit.epochs == 2 and fit.sources == {"market1501"}
    for each in (test, validation):  # they tell of the training that they evaluate
        assert (each.steps, each.epochs, each.data["train"]) == (fit.steps, fit.epochs, fit.data["train"])
    assert test.data["test"]["source"] == "market1501" and test.seconds["test"] > 0
    assert fit.model["backbone"] == "test_resnet" and fit.device["name"] == "cpu"


def test_a_sweeps_trial_is_continued_as_the_wandb_run_it_is(
    tracked: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fit", f"--data.train={market}", *TINY, "--test_with=none", "--trainer.limit_train_batches=1")
    agent = {"WANDB_SWEEP_ID": "abc12345", "WANDB_RUN_ID": "run98765", "WANDB_PROJECT": "searched"}
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    assert tracked(*words, "--trainer.max_epochs=1") == 0
    run = tmp_path / "runs/reid/fit-001"
    noted = json.loads((run / "run.json").read_text())
    assert (noted["run_id"], noted["project"]) == ("run98765", "searched")
    for name in agent:
        monkeypatch.delenv(name)
    assert tracked(*words, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    records = runs_under(run)
    assert [record.stem for record in records] == ["run-run98765", "run-run98765"]
    assert {read_run(record)["project"] for record in records} == {"searched"}
    assert json.loads((run / "run.json").read_text()) == {**noted, "attempt": 2}


@pytest.mark.parametrize(
    ("attempt", "given", "environment", "expected"),
    [
        (1, {}, {}, {"id": "noted", "project": None}),
        (1, {}, {"WANDB_RUN_ID": "mine"}, {"id": None}),  # W&B reads it
        (1, {"id": "asked"}, {"WANDB_RUN_ID": "mine"}, {"id": "asked"}),
        (1, {}, {"WANDB_DIR": "/elsewhere"}, {"save_dir": "/elsewhere"}),
        (1, {"save_dir": "here"}, {"WANDB_DIR": "/elsewhere"}, {"save_dir": "here"}),
        (2, {}, {"WANDB_RUN_ID": "mine"}, {"id": "noted", "project": "kept", "entity": "team"}),
        (2, {"id": "asked", "project": "other"}, {}, {"id": "asked", "project": "other"}),
    ],
)
def test_what_the_environment_asks_of_wandb_counts_for_a_new_run(
    attempt: int, given: dict[str, str], environment: dict[str, str], expected: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = Namespace({"save_dir": ".", "id": None, "project": None, "entity": None, **given})
    tracking = {} if attempt == 1 else {"project": "kept", "entity": "team"}
    place_logger("WandbTracker", arguments, RunFolder(Path("run"), "noted", attempt, **tracking))
    assert {name: arguments[name] for name in expected} == expected


class OwnTracker(WandbTracker):
    """A logger of the user's own that takes two of the arguments."""

    def __init__(self, save_dir: str = ".", id: str | None = None) -> None:
        super().__init__(save_dir=save_dir, id=id)


def test_a_wandb_logger_of_the_users_own_is_placed_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for path in ("OwnTracker", f"{__name__}.OwnTracker"):
        arguments = Namespace({"save_dir": ".", "id": None})
        place_logger(path, arguments, RunFolder(Path("run"), "noted", 2, "kept", "team"))
        assert arguments.as_dict() == {"save_dir": "run", "id": "noted"}
