"""The benchmark of training steps: every row of ours runs, and ratios are those of rows that ran side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training import NAMES, ROWS, main


@pytest.mark.parametrize("row", ["bare", "synthetic", "fit", "kept"])
def test_a_row_prints_the_seconds_of_a_step(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = ["--backbone=test_resnet", "--height=64", "--width=32", "--batch=8", "--workers=0", "--warm-up=1"]
    monkeypatch.setattr("sys.argv", ["training", "--row", row, "--steps=2", *words])
    main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 1 and json.loads(lines[0])["seconds"] > 0


def test_every_row_has_a_name() -> None:
    assert set(ROWS) == set(NAMES) == {"bare", "synthetic", "fit", "kept", "torchreid"}
