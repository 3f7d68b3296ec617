"""What a benchmark says and refuses before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffreid_lightning.benchmark.job_records import Record

Command = Callable[..., int]


@pytest.fixture
def planned(command: Command, tmp_path: Path) -> Callable[..., int]:
    """Run ``benchmark`` with a grid of one row over two datasets that are not there, changed by keywords."""
    file = tmp_path / "grid.yaml"

    def run(*words: str, **changes: Any) -> int:
        grid = {
            "root": "runs/grid",
            "initializations": {"scratch": {"init_from": None}},
            "settings": {"supervised": {"run": "fit"}},
            "datasets": {"market": "nowhere/market", "duke": "nowhere/duke"},
        }
        file.write_text(yaml.safe_dump({**grid, **changes}, sort_keys=False), encoding="utf-8")
        return command("benchmark", f"--config={file}", *words)

    return run


def test_a_transfer_to_the_source_itself_is_refused(
    planned: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "supervised": {"run": "fit"},
        "direct": {"run": "test --ckpt_path {needed}", "needs": "supervised@source", "pairs": [["duke", "duke"]]},
    }
    assert planned(settings=settings) == 2
    assert "two different datasets" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_plan_reads_the_record_of_each_job_once(planned: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(Record, "read", lambda folder: read.append(folder))
    assert planned("--dry-run", seeds=[0, 1]) == 0
    assert len(read) == len(set(read)) == 4


def test_a_plan_says_which_data_are_missing(
    planned: Callable[..., int], market: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned("--dry-run", datasets={"market": str(market), "duke": "nowhere/duke"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["to do        scratch/supervised/market/seed-0", "data missing scratch/supervised/duke/seed-0"]
    assert "data missing: no dataset can be read at nowhere/duke, which is 'duke' of the grid" in lines


@pytest.mark.parametrize("share", ["", "--data.val_share 0", "--data.val_share 0.2"])
def test_cells_that_nobody_is_held_out_of_are_refused_before_they_are_trained(
    planned: Callable[..., int], market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    changes = {
        "evaluate": "val",
        "settings": {"supervised": {"run": f"fit --config stages/transfer {share}"}},
        "datasets": {"market": str(market), "duke": "nowhere"},
    }
    held_out = share.endswith("0.2")
    for words in ([], ["--sweep=sweep.yaml"], ["--dry-run"]):
        if not held_out or "--dry-run" in words:
            assert planned(*words, **changes) == (0 if held_out else 2)
    said = capsys.readouterr().err
    assert ("add '--data.val_share 0.2' to the flags of 'market'" in said) == (not held_out)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "sweep.yaml").exists()
    assert planned("--only=*/duke/*", "--dry-run", **changes) == 0, "it is not here"


def test_a_report_shows_no_table_of_a_configuration_that_was_changed_since(
    planned: Callable[..., int], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffreid_lightning.benchmark.job_runner.JobRunner.run", lambda *_: [])
    for words, flags, is_shown in ((["--table"], "", True), (["--only=*/duke/*"], "--trainer.max_epochs 3", False)):
        assert planned(*words, flags=flags) == 0
        assert command("report", "runs/grid") == 0
        assert ("supervised: duke" in (tmp_path / "report.html").read_text(encoding="utf-8")) == is_shown
