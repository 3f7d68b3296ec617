"""From a trained run to features, a search, thresholds and an ONNX file, through the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from diffreid_lightning.cli.commands.thresholds import _held_out_images
from diffreid_lightning.registry import ReIDDataModule
from tests.fixtures.command_line import TINY

Command = Callable[..., int]


@pytest.mark.slow
def test_a_run_is_put_to_use(
    command: Command, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/reid/fit-001"
    assert command("fit", f"--data.train={market}", *TINY, "--seed_everything=5") == 0
    assert command("predict", f"--data.train={market}", *TINY[:4], *TINY[-3:], f"--ckpt_path={run}") == 0
    capsys.readouterr()

    # 1. The features are those that predict writes.
    for model, out in ((run, "a.parquet"), (run / "checkpoints/last.ckpt", "b.parquet")):
        assert command("embed", market, "--model", model, "--out", out, "--num_workers", 0) == 0
    assert re.search(r"features, \d+ of them now, [\d,]+ images/s", capsys.readouterr().out)
    table, other = (pq.read_table(name) for name in ("a.parquet", "b.parquet"))
    features, again = (np.stack(each["feature"].to_numpy()) for each in (table, other))
    np.testing.assert_allclose(features, again, atol=1e-5)
    place = {name: row for row, name in enumerate(table["file_name"].to_pylist())}
    predicted = load_file(next((tmp_path / "runs/reid").glob("predict-*/features.safetensors")))["features"]
    names = pq.read_table(next((tmp_path / "runs/reid").glob("predict-*/features.parquet")))["file_name"].to_pylist()
    np.testing.assert_allclose(features[[place[name] for name in names]], predicted, rtol=1e-4, atol=1e-4)

    # 2. An image finds others in the file of features.
    image = market / names[0]
    assert command("search", image, "a.parquet", "--model", run, "--out", "found", "--top", 3) == 0
    lines = Path("found/matches.csv").read_text().splitlines()
    cosines = predicted @ predicted[0] / np.linalg.norm(predicted, axis=1) / np.linalg.norm(predicted[0])
    assert len(lines) == 4 and Path("found/rank_lists.png").is_file()
    assert float(lines[1].split(",")[-1]) >= np.sort(cosines)[-2] - 1e-3  # not itself, which is in the gallery
    assert all(line.startswith(f"{image.name},") and f",{names[0]}," not in line for line in lines[1:])
    assert command("search", image, "a.parquet", "--out", "found") == 2
    assert command("search", image, "none.parquet", "--model", run, "--out", "found") == 2
    assert "embed IMAGES" in capsys.readouterr().err
    # ... or in a folder, of which the next search takes the features that the first one kept.
    rest = ["--model", run, "--out", "again", "--num_workers", 0]
    for name in names[:2]:
        assert command("search", market / name, market / "bounding_box_test", *rest) == 0
        assert Path("again/matches.csv").read_text().splitlines()[1].startswith(f"{Path(name).name},")
    assert "all there already: " in capsys.readouterr().out
    assert command("search", image, market / "query", *rest) == 2, "the gallery's are the work of hours"
    assert "again/gallery.parquet exists already" in capsys.readouterr().err

    # 3. Thresholds rest on the people that the run has held out.
    assert command("thresholds", run, "--fmr", 0.1, "--fnmr", 0.2, "--num_workers", 0) == 0
    noted = json.loads((run / "thresholds.json").read_text())
    assert noted["identities"] == 4 and noted["across_cameras"] and (run / "thresholds.png").is_file()
    # ... chosen by the run's seed, which its config.yaml has once.
    assert "seed_everything: 5" in (run / "config.yaml").read_text()
    held = ReIDDataModule(str(market), image_size=(64, 32), val_share=0.5, seed=5).val_set
    found = _held_out_images(run)
    assert held is not None and set(map(str, found.rows.file_names)) == set(map(str, held.rows.file_names))
    first, second = noted["thresholds"]
    assert first["fmr"]["value"] <= 0.1 and second["fnmr"]["value"] <= 0.2
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("val_share: 0.5", "val_share: 0.0"))
    assert command("thresholds", run) == 2
    assert "--data.val_share 0.1" in capsys.readouterr().err
    # ... or on the people of a dataset that it was not trained on: junk and distractors are none.
    places = {(file.parent.name == "bounding_box_train", file.name[:4]) for file in market.rglob("*.jpg")}
    people = {place for place in places if place[1] not in ("-1_c", "0000")}
    assert command("thresholds", run, "--images", market, "--num_workers", 0, "--out", "all") == 0
    trained = len(ReIDDataModule(str(market), image_size=(64, 32), val_share=0.5, seed=5).training_identities)
    assert json.loads(Path("all/thresholds.json").read_text())["identities"] == len(people) - trained
    assert f"Left out: {trained} people" in capsys.readouterr().out

    # 4. The example beside the ONNX file comes to the same similarity without PyTorch.
    assert command("export", run, "--format", "onnx", "--out", "network.onnx") == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    example = Path("network_example.py")
    assert "torch" not in example.read_text()
    words = [sys.executable, example, "network.onnx", image, market / names[1]]
    said = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True).stdout
    one, two = predicted[0], predicted[1]
    cosine = float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert float(said.split()[-1]) == pytest.approx(cosine, abs=1e-3)

    # 5. A folder that cannot be is the user's to change.
    if sys.platform == "linux":
        for words in (
            ["embed", market, "--model", run, "--out", "/proc/there/a.parquet"],
            ["search", image, "a.parquet", "--model", run, "--out", "/proc/there"],
            ["export", run, "--out", "/proc/there/network.onnx"],
            ["thresholds", run, "--images", market, "--num_workers", 0, "--out", "/proc/there"],
        ):
            assert command(*words) == 2, words
            assert "There can be no folder /proc/there." in capsys.readouterr().err


def test_thresholds_of_a_file_are_asked_for_a_folder_at_once(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"not even read")
    assert command("thresholds", tmp_path / "last.ckpt", "--images", tmp_path) == 2
    assert "give a folder with --out" in capsys.readouterr().err
