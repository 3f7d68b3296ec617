"""A command that is refused changes nothing: not the run it was to go on in, nor the folder of runs."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from diffreid_lightning.storage import hub
from tests.fixtures.command_line import TINY
from tests.fixtures.dataset_layouts import put, write_market1501

Command = Callable[..., int]


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes of files, targets of links, the bare names of folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Lightning's loggers say; they do not reach the root logger, where pytest listens."""
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)


def test_a_refused_resume_changes_nothing(
    command: Command,
    market: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    said: pytest.LogCaptureFixture,
) -> None:
    words = ["fit", f"--data.train={market}", *TINY]
    assert command(*words, "--test_with=none") == 0
    run = tmp_path / "runs/reid/fit-001"
    before = snapshot(tmp_path / "runs")
    fewer = write_market1501(tmp_path / "fewer", train_ids=range(2, 6), cameras=(1, 2, 3, 4, 5, 6))
    refusals = {
        "--model.backbone=test_vit": "--model.backbone",
        f"--data.train={fewer}": "other training data",
        "--data.sampler.init_args.identities_per_batch=1000": "1000",
        "--model.optimizer=torch.optim.SGD": "another optimizer",
    }
    resume = f"--ckpt_path={run}/checkpoints/last.ckpt"
    for wrong, named in refusals.items():
        capfd.readouterr()
        assert command(*words, resume, "--trainer.max_epochs=3", wrong) == 2, wrong
        assert named in capfd.readouterr().err
        assert snapshot(tmp_path / "runs") == before, wrong
    assert command("test", "--ckpt_path=last") == 0
    assert command(*words, resume, "--trainer.max_epochs=3", "--test_with=none") == 0, "the run still goes on"
    assert re.search(r"in force from here on: [^\n]*max_epochs \d -> 3", said.text)
    assert [path.name for path in sorted((run / "metrics").iterdir())] == ["attempt-1", "attempt-2"]


def test_last_is_the_newest_run_with_a_checkpoint(
    command: Command, market: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.logger=false", "--test_with=none"]
    assert command(*words, "--trainer.max_epochs=1", "--ckpt_path=last") == 0
    assert "from the beginning" in said.text
    root = tmp_path / "runs/reid"
    stopped = root / "fit-002"
    stopped.mkdir()
    for name in ("run.json", "config.yaml"):
        (stopped / name).write_bytes((root / "fit-001" / name).read_bytes())
    before = snapshot(stopped)
    said.clear()
    assert command(*words, "--ckpt_path=last") == 0
    assert "fit-001" in said.text
    assert "fit-002" in said.text, "which it passed over"
    assert snapshot(stopped) == before
    assert sorted(path.name for path in root.iterdir()) == ["fit-001", "fit-002"]
    assert torch.load(root / "fit-001/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such folder")
@pytest.mark.parametrize(
    "words",
    [
        ["benchmark", "--root=/proc/there"],
        ["benchmark", "--root=/proc/there", "--table"],
        ["benchmark", "--sweep=/proc/there/sweep.yaml"],
        ["sweep", "sweeps/supervised", "--trials=1", "--root=/proc/there"],
        ["pipeline", "--root=/proc/there"],
        ["report", ".", "--out=/proc/there/report.html"],
        ["data", "sheet", "miniperson", "--out=/proc/there/sheet.png"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_a_folder_that_cannot_be_is_the_users_to_change(
    words: list[str], command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells").mkdir()
    assert command(*words) == 2
    assert "There can be no folder /proc/there" in capfd.readouterr().err


REFUSED = {
    "initial weights": (["fit", "--model.init_from=/no/such/weights"], "/no/such/weights"),
    "too few identities": (["fit", "--data.sampler.init_args.identities_per_batch=1000"], "1000"),
    "nothing to test": (["test"], "--ckpt_path"),
    "nothing to predict with": (["predict"], "--ckpt_path"),
    "nobody held out": (["validate", "--data.val_share=0"], "nobody"),
    "no query": (["test", "--data.test=people"], "query"),
    "a broken image": (["fit", "--data.train=broken"], "image file is empty"),
    "a setting that Lightning refuses": (["fit", "--trainer.val_check_interval=10000"], "-traceback.txt"),
    "a broken image of the test": (["fit", "--data.test=cut"], "data check PATH --decode"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_refused_command_leaves_no_folder(
    mistake: str, tracked: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for person in range(3):
        put(tmp_path / f"people/{person}/0.jpg", person, 1)
    if mistake == "a broken image":
        for path in (write_market1501(tmp_path / "broken") / "bounding_box_train").glob("*.jpg"):
            path.write_bytes(b"")
    if mistake == "a broken image of the test":
        path = next((write_market1501(tmp_path / "cut") / "query").glob("*.jpg"))
        path.write_bytes(path.read_bytes()[:-200])
    (verb, *words), named = REFUSED[mistake]
    assert tracked(verb, f"--data.train={market}", *TINY, *words) == 2
    error = capfd.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("runs/*/*")) == []
    assert list(tmp_path.rglob("*wandb*")) == []


def test_a_recipe_that_wants_the_hub_says_how_to_do_without(
    command: Command, market: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    words = ["--trainer.accelerator=cpu", "--data.num_workers=0"]
    assert command("fit", "--config=recipes/bot_market1501", f"--data.train={market}", *words) == 2
    error = capfd.readouterr().err
    for way in ("--model.init_from null", "--model.init_from local-dir:", "efficientnet-lite0", "[imagenet]"):
        assert way in error
    assert list(tmp_path.glob("runs/*/*")) == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--sweep=folder"], "Is a directory"),
        (["--sweep="], "--sweep is empty"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_named(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    (tmp_path / "folder").mkdir()
    assert command("benchmark", *words) == 2
    errors = capsys.readouterr().err
    assert hint in errors and "traceback" not in errors.lower()
