"""A whole grid on tiny data: killed again and again, with a row that fails, and its table."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from diffreid_lightning.reid.query_table import read_average_precisions
from tests.fixtures.command_line import TINY, start
from tests.fixtures.dataset_layouts import write_dukemtmcreid
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]
FEW_STEPS = " ".join([*TINY, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"])
GRID: dict[str, Any] = {
    "root": "runs/grid",
    "seeds": [3],
    "flags": f"{FEW_STEPS} --trainer.logger=false",
    "pretrain": "fit --test_with none",
    "initializations": {
        "scratch": {"init_from": None},
        "as long": {"pretrained_on": "{train}"},
        "broken": {"init_from": "nowhere", "settings": ["supervised"]},
    },
    "settings": {
        "supervised": {"run": "fit"},
        "as it is": {"run": "test"},
        "direct": {"run": "test --ckpt_path {needed}", "needs": "supervised@source", "pairs": [["market", "duke"]]},
    },
}


@pytest.fixture
def grid(market: Path, tmp_path: Path) -> Path:
    duke = write_dukemtmcreid(tmp_path / "duke", train_ids=range(2, 6), cameras=(1, 2, 3))
    file = tmp_path / "grid.yaml"
    datasets = {"market": str(market), "duke": str(duke)}
    file.write_text(yaml.safe_dump({**GRID, "datasets": datasets}, sort_keys=False), encoding="utf-8")
    return file


def done_cells(root: Path) -> dict[Path, bytes]:
    """The records of the cells that are done; one that is begun again gets another."""
    records = {path: path.read_bytes() for path in root.glob("cells/**/job.json")}
    return {path: record for path, record in records.items() if json.loads(record)["exit_code"] == 0}


def kill_once(ready: Callable[[], object], words: list[str], folder: Path) -> None:
    """Start a benchmark and kill its process once something is so."""
    process = start(words, folder)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not ready():
        time.sleep(0.02)
    assert process.poll() is None, "the grid was done too soon to test anything"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def results(root: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of every cell's results, by the cell's name."""
    found: dict[str, list[dict[str, str]]] = {}
    for file in sorted(root.glob("cells/*/*/*/seed-*/*/*/results.csv")):
        with file.open(newline="", encoding="utf-8") as handle:
            name = file.parents[2].relative_to(root / "cells").as_posix()
            found.setdefault(name, []).extend(csv.DictReader(handle))
    return found


@pytest.mark.slow
def test_a_killed_grid_loses_no_cell_and_runs_none_twice(
    grid: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", f"--config={grid}", "--jobs=2"]
    root = tmp_path / "runs/grid"
    kill_once(lambda: done_cells(root), words, tmp_path)
    done, begun = done_cells(root), set(root.glob("cells/**/last.ckpt"))
    kill_once(lambda: set(root.glob("cells/**/last.ckpt")) - begun, words, tmp_path)
    done |= done_cells(root)
    assert command(*words) == 1
    captured = capsys.readouterr()
    said = captured.out + captured.err
    # 1. Everything but the broken row is there, once.
    names = {f"{row}/supervised/{data}" for row in ("scratch", "as-long") for data in ("market", "duke")}
    names |= {f"as-long/as-it-is/{data}" for data in ("market", "duke")}  # there is nothing to test in random weights
    names |= {f"{row}/direct/market-to-duke" for row in ("scratch", "as-long")}
    found = results(root)
    assert set(found) == {f"{name}/seed-3" for name in names}
    assert done and all(path.read_bytes() == record for path, record in done.items()), "no cell ran twice"
    assert {len({row["mAP"] for row in rows}) for rows in found.values()} == {1}, "a kill may come after the test"
    # A fit goes on in its run folder. A test that was killed leaves an empty one and starts again.
    for runs in (root.glob("*/**/fit-*/run.json"), root.glob("*/**/summary.json")):
        jobs = [path.parent.parent for path in runs]
        assert jobs and len(set(jobs)) == len(jobs), "no job has two runs"
    # 2. The broken one is listed with the end of its log, and marked in the table.
    for data in ("market", "duke"):
        assert f"failed: broken/supervised/{data}/seed-3: ended with exit code 2" in said
    assert "There are no initial weights at 'nowhere'." in said
    assert "failed" in (root / "results/table.md").read_text(encoding="utf-8")
    # 3. The table's numbers are those of the cells, and of their queries.
    for file in root.glob("cells/*/*/*/*/*/*/results.csv"):
        precisions = np.concatenate(list(read_average_precisions(file.with_name("queries_test.csv")).values()))
        *_, line = csv.DictReader(file.open(newline="", encoding="utf-8"))
        assert precisions.mean() == pytest.approx(float(line["mAP"]), abs=1e-3)
    assert "<br>people: " in (root / "results/table.md").read_text(encoding="utf-8")
    check_table(root, found)
    # 4. The next start tries the broken cells again, and nothing else.
    times = {path: path.stat().st_mtime_ns for path in root.glob("cells/**/summary.json")}
    assert command(*words, "--only=scratch/*") == 0
    assert command("benchmark", f"--config={grid}", "--table") == 1
    assert times == {path: path.stat().st_mtime_ns for path in root.glob("cells/**/summary.json")}


def check_table(root: Path, found: dict[str, list[dict[str, str]]]) -> None:
    """Compare the table with what the cells themselves wrote."""
    with (root / "results/table.csv").open(newline="", encoding="utf-8") as handle:
        table = list(csv.DictReader(handle))
    assert len(table) == (2 * 3 + 2 + 2) * 2
    for row in table:
        if row["initialization"] == "broken":
            assert (row["n"], row["failed"], row["mean"]) == ("0", "1", "")
            continue
        place = f"{row['setting'].replace(' ', '-')}/{row['dataset'].replace(' ', '-')}/seed-3"
        name = row["initialization"].replace(" ", "-")
        own = float(found[f"{name}/{place}"][0][row["metric"]])
        assert float(row["mean"]) == pytest.approx(own, abs=1e-3)
        assert row["steps"] == ("2" if name == "scratch" else "2–4"), "a test adds none to those of pre-training"
        if row["setting"] != "as it is" and name != "scratch":
            scratch = float(found[f"scratch/{place}"][0][row["metric"]])
            assert float(row["difference"]) == pytest.approx(own - scratch, abs=2e-3)


def test_a_cell_is_a_tracked_run_of_the_grids_group(
    grid: Path, tracked: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", f"--config={grid}", "--only=scratch/supervised/market/seed-3"]
    changes = tmp_path / "tracked.yaml"
    changes.write_text(
        yaml.safe_dump({"group": "my grid", "flags": f"{FEW_STEPS} --config recipes/rerank"}), encoding="utf-8"
    )
    assert tracked(*words, f"--config={changes}") == 0
    (record,) = runs_under(tmp_path / "runs/grid/cells")
    run = read_run(record)
    assert (run["group"], run["name"]) == ("my grid", "scratch/supervised/market/seed-3")
    assert "test/mAP" in run["history"]
    assert "‡ with k-reciprocal re-ranking" in capsys.readouterr().out
