"""What a run that goes on with other settings trains with, and what it says of them."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from diffreid_lightning.cli.resume_settings import (
    apply_to_callbacks,
    refuse_another_root,
    refuse_start_changes,
)
from diffreid_lightning.config_files import Change
from diffreid_lightning.errors import UserError
from tests.fixtures.command_line import TINY

Command = Callable[..., int]
CYCLE = ("--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", "--model.scheduler.max_lr=0.01")


def test_a_path_may_be_spelled_in_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, now = "runs/x/backbone", f"local-dir:{tmp_path / 'runs/x/backbone'}"
    refuse_start_changes([Change("model.init_args.init_from", before, now)], ["init_from"], evaluating=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    now = "~/runs/x/backbone"
    refuse_start_changes([Change("model.init_args.init_from", before, now)], ["init_from"], evaluating=False)
    refuse_another_root([Change("trainer.default_root_dir", "runs", "~/runs")], tmp_path / "runs/fit-001")
    for other in ("runs/y/backbone", "timm", None):
        with pytest.raises(UserError, match="applies only at the start"):
            change = Change("model.init_args.init_from", before, other)
            refuse_start_changes([change], ["init_from"], evaluating=False)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Lightning's loggers say; they do not reach the root logger, where pytest listens."""
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)


@pytest.fixture
def fit(command: Command, market: Path) -> Command:
    words = [
        "fit", f"--data.train={market}", *TINY, "--data.val_share=0", "--test_with=none", "--model.warmup_epochs=0",
        "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=.",
        "--trainer.callbacks=[RunCheckpoint]",
    ]  # fmt: skip
    return lambda *more: command(*words, *more)


def rates() -> list[list[float]]:
    """The learning rates of the steps of each attempt at the first run."""
    name = "train/learning_rate"
    files = sorted(Path("runs/reid/fit-001/metrics").glob("attempt-*/metrics.csv"))
    return [[float(row[name]) for row in csv.DictReader(file.open()) if row[name]] for file in files]


def test_more_epochs_another_rate_and_another_schedule_are_in_force_from_the_first_further_batch(
    fit: Command, said: pytest.LogCaptureFixture
) -> None:
    cosine = [1.5e-3 * share for share in (1.0, 0.75, 0.25)]
    assert fit("--trainer.max_epochs=3") == 0
    assert rates() == [pytest.approx([rate for rate in cosine for _ in range(2)])]
    assert fit("--trainer.max_epochs=4", "--ckpt_path=last") == 0
    assert rates()[1] == pytest.approx([1.5e-3 * (2 - 2**0.5) / 4] * 2), "the last epoch of a cosine of four"
    milestones = ("--model.scheduler=torch.optim.lr_scheduler.MultiStepLR", "--model.scheduler.milestones=[5]")
    said.clear()
    assert fit("--trainer.max_epochs=6", "--model.optimizer.lr=1e-2", *milestones, "--ckpt_path=last") == 0
    assert rates()[2] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])
    assert re.search(
        r"in force from here on: [^\n]*max_epochs 4 -> 6, [^\n]*optimizer.init_args.lr 0.0015 -> 0.01", said.text
    )

    # Nothing is left to train: nothing is said to be in force, and the run's config stays what it was trained with.
    config = Path("runs/reid/fit-001/config.yaml").read_bytes()
    said.clear()
    assert (
        fit("--trainer.max_epochs=6", "--model.optimizer.lr=1", *milestones, "--ckpt_path=last", "--seed_everything=7")
        == 0
    )
    assert "in force" not in said.text
    assert re.search(r"Nothing was left to train: 6 epochs [^\n]*was not trained with: [^\n]*lr 0.01 -> 1.0", said.text)
    assert re.search(r"was not trained with: [^\n]*seed_everything [^\n]* -> 7", said.text)
    assert Path("runs/reid/fit-001/config.yaml").read_bytes() == config


def test_a_cycle_is_stepped_after_every_batch_or_refused(fit: Command, capfd: pytest.CaptureFixture[str]) -> None:
    length = "--model.scheduler.total_steps=6"
    assert fit("--trainer.max_epochs=3", *CYCLE, length) == 2
    assert "--model.scheduler_interval step" in capfd.readouterr().err
    by_step = (*CYCLE, "--model.scheduler_interval=step")
    assert fit("--trainer.max_epochs=3", *by_step, length) == 0
    (seen,) = rates()
    top = max(seen)
    assert seen[0] == pytest.approx(0.01 / 25) and seen[-1] == pytest.approx(0.01 / 25 / 1e4) and top > 5e-3
    assert seen == sorted(seen[: seen.index(top)]) + sorted(seen[seen.index(top) :], reverse=True)
    assert fit("--trainer.max_epochs=4", *by_step, length, "--ckpt_path=last") == 2
    assert "--model.scheduler.total_steps 8" in capfd.readouterr().err
    assert fit("--trainer.max_epochs=4", *by_step, "--model.scheduler.total_steps=8", "--ckpt_path=last") == 0
    assert rates()[1][-1] == pytest.approx(0.01 / 25 / 1e4), "the end of the longer cycle"


def test_as_many_other_people_behind_the_classifier_are_refused(
    fit: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    half = "--data.val_share=0.5"
    assert fit("--trainer.max_epochs=1", half) == 0
    for other in (["--seed_everything=1"], ["--model.init_from=/some/backbone"]):
        assert fit("--trainer.max_epochs=2", half, "--ckpt_path=last", *other) == 2, other
        assert re.search("other training data.*--seed_everything|model.init_from", capfd.readouterr().err, re.DOTALL)
    assert fit("--trainer.max_epochs=2", half, "--ckpt_path=last") == 0


def change(key: str, now: Any, before: Any = None) -> Change:
    return Change(key, before, now)


def test_what_only_a_start_uses_is_refused() -> None:
    names = ("init_from", "tokens")
    for key in ("init_from", "tokens.class_path", "tokens.init_args.vectors"):
        with pytest.raises(UserError, match=key.partition(".")[0]):
            refuse_start_changes([change(f"model.init_args.{key}", "x")], names, evaluating=False)
    refuse_start_changes([change("model.init_args.tokens_of_another", "x")], names, evaluating=False)
    refuse_start_changes([change("model.init_args.init_from", None, "timm")], names, evaluating=True)


def test_a_run_is_not_said_to_move(tmp_path: Path) -> None:
    run = tmp_path / "here/fit-001"
    refuse_another_root([change("trainer.default_root_dir", str(tmp_path / "here"))], run)
    with pytest.raises(UserError, match="its own folder"):
        refuse_another_root([change("trainer.default_root_dir", "elsewhere")], run)


def test_arguments_of_callbacks_win_over_their_states() -> None:
    stopping, keeping = EarlyStopping("val/mAP", patience=9), ModelCheckpoint(monitor="val/mAP", dirpath="now")
    states = {
        stopping.state_key: {"patience": 3, "wait_count": 2},
        keeping.state_key: {"dirpath": "then", "monitor": "val/mAP"},
    }
    apply_to_callbacks([stopping, keeping], states, [])
    assert states[stopping.state_key] == {"patience": 3, "wait_count": 2}, "not configured otherwise: left alone"
    given = [change(f"trainer.callbacks.0.init_args.{name}", None) for name in ("patience", "dirpath")]
    apply_to_callbacks([stopping, keeping], states, given)
    assert states[stopping.state_key] == {"patience": 9, "wait_count": 2}
    assert states[keeping.state_key]["dirpath"] == "then", "which tells what its scores are of"
