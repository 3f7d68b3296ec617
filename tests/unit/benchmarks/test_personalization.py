"""The benchmark of personalization: both sides train on the same images, and print the seconds of a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.personalization import CaptionedImages, main
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.manifest.manifest import Manifest


@pytest.fixture
def root(tmp_path: Path, people: Path) -> Path:
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain" / "caption").symlink_to(people)
    return tmp_path / "chain"


@pytest.mark.parametrize("row", ["stock", "synthetic", "fit"])
def test_a_row_prints_the_seconds_of_a_step(
    row: str,
    root: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = [
        "--root",
        str(root),
        "--work",
        str(tmp_path),
        "--workers=0",
        "--row",
        row,
        "--model",
        str(checkpoints["sd1"]),
        "--rank=2",
        "--batch=4",
    ]
    assert main([*words, "--height=32", "--width=16", "--warm-up=1", "--steps=2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 1 and json.loads(lines[0])["seconds"] > 0


def test_images_of_the_loop_are_in_the_range_of_the_autoencoder(people: Path) -> None:
    tokenizer = load_pipeline(locate_pipeline("tiny-sd")).tokenizer
    image, tokens = CaptionedImages(Manifest.read(people), tokenizer, (64, 32))[0]
    assert image.shape == (3, 64, 32)
    assert -1 <= image.min() < 0 < image.max() <= 1
    assert tokens.shape == (tokenizer.model_max_length,)


def test_without_captions_the_command_that_makes_them_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path / "nothing")]) == 2
    assert "--until caption" in capsys.readouterr().err
