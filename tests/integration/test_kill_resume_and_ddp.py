"""What cannot be shown in one process: kill -9 and go on, a full disk, two processes."""

from __future__ import annotations

import csv
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fixtures.command_line import TINY, start
from tests.fixtures.command_process import CommandProcess
from tests.fixtures.dataset_layouts import write_market1501
from tests.fixtures.wandb_records import read_run, runs_under

pytestmark = pytest.mark.slow

Command = Callable[..., int]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def end_at(last: Path, process: CommandProcess, how: signal.Signals, to_group: bool = False) -> str:
    """Send a signal once a checkpoint is there, and return what the process said."""
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(how, to_group)
    return process.communicate(timeout=60)


@pytest.mark.parametrize("validated", ["every epoch", "at the end"])
def test_kill_and_continue_ends_in_the_same_weights_and_the_same_wandb_run(
    tracked: Command, market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validated: str
) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.max_epochs=4", "--model.drop_path_rate=0.1"]
    if validated == "at the end":  # Lightning goes on otherwise then; and a worker asks for its rows in advance
        words += ["--trainer.check_val_every_n_epoch=4", "--data.num_workers=1", "--trainer.log_every_n_steps=1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    monkeypatch.chdir(whole)
    assert tracked(*words) == 0

    last = cut / "runs/reid/fit-001/checkpoints/last.ckpt"
    end_at(last, start(words, cut), signal.SIGKILL, to_group=validated == "at the end")  # its worker would outlive it
    assert last.exists()
    assert 1 <= torch.load(last, weights_only=True)["epoch"] + 1 < 4, "the kill came too late to test anything"

    monkeypatch.chdir(cut)
    assert tracked(*words, "--ckpt_path=last") == 0
    assert not (cut / "runs/reid/fit-002").exists(), "a continued run stays in its folder"
    one, two = weights(whole / "runs/reid/fit-001/checkpoints/last.ckpt"), weights(last)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)

    identity = json.loads((cut / "runs/reid/fit-001/run.json").read_text())
    records = runs_under(cut)
    assert len(records) == 2
    assert {record.stem for record in records} == {f"run-{identity['run_id']}"}
    assert read_run(records[-1])["id"] == identity["run_id"], "W&B flushes every 15 s; the killed part may be shorter"
    assert len(list((cut / "runs/reid/fit-001/metrics").glob("attempt-*/metrics.csv"))) == 2


def test_a_run_that_is_told_to_end_with_its_workers_says_that_it_has_not_finished(market: Path, tmp_path: Path) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.max_epochs=1000", "--trainer.logger=false"]
    process = start([*words, "--data.num_workers=1"], tmp_path)
    last = tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt"
    output = end_at(last, process, signal.SIGTERM, to_group=True)
    assert process.returncode == 143, output
    assert "--ckpt_path last" in output
    assert "Traceback" not in output


def test_a_full_disk_keeps_the_previous_checkpoint(command: Command, market: Path, tmp_path: Path) -> None:
    words = ["fit", f"--data.train={market}", *TINY, "--trainer.logger=false"]
    assert command(*words, "--trainer.max_epochs=1", "--test_with=none") == 0
    last = tmp_path / "runs/reid/fit-001/checkpoints/last.ckpt"
    before = last.read_bytes()
    assert len(before) > 100_000

    process = start([*words, "--trainer.max_epochs=3", "--ckpt_path=last"], tmp_path, file_size=100_000)
    output = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "disk refused" in output
    assert "Traceback" not in output
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*.part"))


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Market-1501 folder whose gallery names the wrong people, so that mAP lies between 0 and 100.

    Query and gallery have an odd number of rows: two processes cannot share them without one that counts twice.
    """
    root = write_market1501(
        tmp_path_factory.mktemp("data") / "confusing", train_ids=range(2, 10), cameras=(1, 2, 3, 4, 5, 6)
    )
    gallery = sorted((root / "bounding_box_test").glob("[0-9]*.jpg"))
    pictures = [path.read_bytes() for path in gallery]
    random.Random(0).shuffle(pictures)
    for path, picture in zip(gallery, pictures, strict=True):
        path.write_bytes(picture)
    assert (len(gallery) + len(list((root / "query").glob("*.jpg")))) % 2 == 1
    return root


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_report_what_one_does(launcher: str, confusing: Path, command: Command, tmp_path: Path) -> None:
    words = ["fit", f"--data.train={confusing}", *TINY, "--trainer.max_epochs=1"]
    words += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    process = start(words, tmp_path, processes=2 if launcher == "torchrun" else 0)
    output = process.communicate(timeout=300)
    assert process.returncode == 0, output
    root = tmp_path / "runs/reid"
    assert [path.name for path in root.iterdir()] == ["fit-001"], "both processes write to one run folder"
    assert len(runs_under(root)) == 1

    assert command("test", "--ckpt_path=last", "--trainer.devices=1", "--trainer.strategy=auto") == 0
    (two,) = csv.DictReader((root / "fit-001/results.csv").open())
    (one,) = csv.DictReader((root / "test-002/results.csv").open())
    assert 1 < float(one["mAP"]) < 99
    for name in ("mAP", "Rank-1", "mINP"):
        assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-3)
