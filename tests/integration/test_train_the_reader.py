"""The embedded captioner's reader is trained by the command line, and captions what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.wandb_records import read_run, runs_under

Command = Callable[..., int]
SHIPPED = Path(__file__).parents[2] / "tools/reader/configs/reader.yaml"
_LOOK = {
    "sex": "female", "age": "young", "upper": "jumper", "upper_pattern": "plain", "lower": "jeans",
    "lower_colour": "navy", "lower_pattern": "plain", "shoes": "boots", "shoe_colour": "brown",
    "hair_colour": "brown", "hair_cut": "long", "hat": "none", "bag": "none", "bag_colour": "none", "pose": "amble",
    "view": "front", "setting": "on grass in front of a building", "light": "at night",
}  # fmt: skip
_SHADES = {"red": (200, 30, 30), "green": (30, 160, 60)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """People in one of two colors, described as the renderer describes them."""
    rng = np.random.default_rng(0)
    folder, rows = tmp_path / "corpus", []
    folder.mkdir()
    for number in range(40):
        color = list(_SHADES)[number % 2]
        pixels = np.asarray(_SHADES[color]) + rng.normal(0, 12, (128, 64, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append({"file_name": f"{number:02d}.png", "pid": number, "upper_colour": color})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    same = {"source": "toy", "partition": "train", "camid": 1, "role": "identity", **_LOOK}
    Manifest.from_columns(folder, {**columns, **same, "split": ["train"] * 32 + ["val"] * 8}).write(folder)
    return folder


def test_a_reader_is_trained_and_captions(tracked: Command, command: Command, tmp_path: Path, corpus: Path) -> None:
    # Eight channels: on CPUs without AVX-512, torch 2.14 crashes in strided 1 x 1 convolutions of four, channels last.
    words = [
        "fit", f"--config={SHIPPED}", f"--data.source={corpus}", "--data.batch_size=8", "--data.num_workers=0",
        "--trainer.default_root_dir=runs/reader", "--trainer.max_epochs=10", "--trainer.check_val_every_n_epoch=10",
        "--trainer.precision=32", "--trainer.accelerator=cpu", "--model.channels=[8,8,8,8]", "--model.warmup_steps=2",
        "--model.dropout=0", "--model.optimizer.init_args.lr=0.01",
    ]  # fmt: skip
    assert tracked(*words) == 0
    run = tmp_path / "runs/reader/fit-001"
    history = read_run(runs_under(tmp_path / "runs/reader")[0])["history"]
    assert history["val/upper_color"][-1] == 1.0
    assert {"val/view", "val/right"} <= set(history)
    captioned = ["predict", "--config=stages/caption", f"--data.source={corpus}", "--data.num_workers=0"]
    assert command(*captioned, "--model=ReaderCaptioner", f"--model.model={run / 'reader'}") == 0
    rows = Manifest.read(tmp_path / "runs/tour/caption").table.to_pylist()
    assert len(rows) == 32
    expected = "a young woman with long brown hair wearing a {} jumper, navy jeans, brown boots, walking slowly"
    for row in rows:
        assert row["caption"].startswith(expected.format(row["upper_colour"]))
        assert row["circumstances"] == (
            "walking slowly, seen from the front, on grass in front of a building, at night"
        )
