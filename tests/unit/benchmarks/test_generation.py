"""The benchmark of generation on a model of a few thousand weights: every row is drawn, ratios are taken in a round."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import generation
from benchmarks.generation import PAIRS, Rates, main, report
from experiments.instruments import script
from tests.fixtures.drawing import write_personalized_model
from tests.unit.benchmarks.test_generation_gpu import folder  # noqa: F401


@pytest.fixture
def root(tmp_path: Path, people: Path, folder: Path) -> Path:  # noqa: F811
    """A chain that has captioned and personalized."""
    shutil.copytree(people, tmp_path / "caption")
    write_personalized_model(tmp_path / "personalize" / "fit-001" / "personalized", folder)
    return tmp_path


def test_every_row_is_drawn_in_every_round(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "quiet_loaders", lambda: None)
    drawn = []
    rate = generation.stock_rate

    def noted(*arguments: Any) -> float:
        measured = rate(*arguments)
        drawn.append((arguments[2].steps, len(list(arguments[3].glob("*.jpg")))))
        return measured

    monkeypatch.setattr(generation, "stock_rate", noted)
    words = [
        "--root",
        str(root),
        "--threads",
        str(torch.get_num_threads()),
        "--together",
        "2",
        "--rounds",
        "2",
        "--clock",
        "cpu",
    ]
    assert main([*words, "--images", "3"]) == 0
    assert drawn == [(50, 4), (12, 4)] * 2, "two images of each of two people"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in printed if line.startswith("| ")] == [
        "evaluations per image", "100", "25", "24", "24",
    ]  # fmt: skip
    assert main([*words, "--images", "11"]) == 2
    assert "There are not 6 people." in capsys.readouterr().err


def test_a_ratio_is_taken_within_a_round() -> None:
    printed = report({PAIRS[0]: Rates([1.0, 2.0, 4.0], [3.0, 2.0, 16.0])}, 4).splitlines()
    assert printed[-1].split(" | ")[2:] == ["3.00 (2.00 to 16.00)", "3.00 (1.00 to 4.00) |"]
