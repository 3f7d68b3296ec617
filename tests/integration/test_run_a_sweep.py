"""A sweep of real fits, killed and continued."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.fixtures.command_line import TINY, start
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]
START = ["${env}", "${interpreter}", "-m", "diffreid_lightning", "fit"]


@pytest.mark.slow
def test_a_killed_sweep_loses_no_trial_and_runs_none_twice(
    tracked: Command, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {
        "name": "tiny",
        "method": "random",
        "metric": {"name": "val/mAP", "goal": "maximize"},
        "command": [*START, f"--data.train={market}", *TINY, "--test_with=none", "${args}"],
        "parameters": {
            "model.optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
            "model.losses": {"values": [[{"class_path": "LabelSmoothedCrossEntropy"}], [{"class_path": "CircleLoss"}]]},
        },
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    words = ["sweep", "tiny.yaml", "--trials=3"]
    root = tmp_path / "runs/sweeps/tiny"
    process = start(words, tmp_path)
    deadline = time.monotonic() + 240
    while not list(root.glob("trials/001/fit-001/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = (root / "trials/000/fit-001/summary.json").read_bytes()

    assert tracked(*words) == 0
    said = capsys.readouterr().out
    with (root / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"]) for row in rows] == [(f"{number:03d}", "done") for number in range(3)]
    assert len({row["model.optimizer.init_args.lr"] for row in rows}) == 3
    assert (root / "trials/000/fit-001/summary.json").read_bytes() == done
    attempts = [json.loads((root / f"trials/00{n}/fit-001/run.json").read_text())["attempt"] for n in range(3)]
    assert attempts == [1, 2, 1]
    assert len(list(root.glob("trials/*/fit-*"))) == 3
    for row in rows:
        run = root / "trials" / row["trial"] / "fit-001"
        summary = json.loads((run / "summary.json").read_text())
        assert float(row["val/mAP"]) == summary["metrics"]["val"]["mAP"]
        assert "val/mAP" in read_run(runs_under(run)[-1])["history"]
        config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
        assert config["optimizer"]["init_args"]["lr"] == float(row["model.optimizer.init_args.lr"])
        assert len(config["losses"]) == 1 and config["losses"][0]["class_path"].endswith(
            row["model.losses"].split("'")[3]
        )
    best = max(rows, key=lambda row: float(row["val/mAP"]))
    assert f"best: trial {best['trial']}" in said and "again: python -m diffreid_lightning fit" in said


def test_a_sweep_over_a_metric_that_is_never_logged_trains_one_trial(
    command: Command, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--data.val_share=0", "--test_with=none", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    sweep = {
        "method": "grid",
        "metric": {"name": "val/mAP", "goal": "maximize"},
        "command": [*START, f"--data.train={market}", *TINY, *few, "--trainer.logger=false", "${args}"],
        "parameters": {"seed_everything": {"values": [0, 1]}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    assert command("sweep", "tiny.yaml") == 2
    said = capsys.readouterr().err
    assert "waits for val/mAP" in said and "--data.val_share 0.1" in said
    assert len(list(tmp_path.glob("runs/sweeps/tiny/trials/*/fit-*"))) == 1
