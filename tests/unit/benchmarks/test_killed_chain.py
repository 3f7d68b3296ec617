"""What the script that kills a chain compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import killed_chain
from diffreid_lightning.errors import RunError
from diffreid_lightning.manifest.manifest import Manifest


def made(
    root: Path,
    weight: float = 1.0,
    grey: int = 100,
    pid: int = 1,
    parent: str = "a" * 64,
    note: str = "",
    moment: float = 0.5,
    steps: int = 3,
) -> Path:
    images = root / "generate/images/toy/0001"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 16), (grey,) * 3).save(images / "a.jpg")
    columns = {
        "file_name": ["images/toy/0001/a.jpg"], "source": "toy", "partition": "train", "pid": [pid], "camid": [1],
        "split": "train", "role": "identity",
    }  # fmt: skip
    Manifest.from_columns(root / "generate", columns, parents=[parent]).write(root / "generate")
    run = root / "transfer/fit-001"
    (run / "backbone").mkdir(parents=True)
    tensors = {"weight": torch.tensor([weight, 2.0])}
    save_file(tensors, run / "backbone/model.safetensors", metadata={"provenance": note})
    optimizer = {"state": {0: {"exp_avg": torch.tensor([moment])}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    state = {"state_dict": tensors, "optimizer_states": [optimizer], "global_step": steps}
    torch.save({**state, "callbacks": {"ModelCheckpoint": {"dirpath": note}}}, run / "last.ckpt")
    (run / "log.txt").write_text(note)
    return root


def test_what_tells_only_of_the_run_makes_no_difference(tmp_path: Path) -> None:
    one, other = (killed_chain.contents(made(tmp_path / name, note=name)) for name in ("one", "other"))
    assert len(one) == 4
    assert killed_chain.differences(one, other) == []


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"weight": 1.0000001}, ["transfer/fit-001/backbone/model.safetensors", "transfer/fit-001/last.ckpt"]),
        ({"moment": 0.25}, ["transfer/fit-001/last.ckpt"]),
        ({"steps": 4}, ["transfer/fit-001/last.ckpt"]),
        ({"grey": 101}, ["generate/images/toy/0001/a.jpg"]),
        ({"pid": 2}, ["generate/metadata.parquet"]),
        ({"parent": "b" * 64}, ["generate/metadata.parquet"]),
    ],
)
def test_what_a_chain_ends_in_does(tmp_path: Path, change: dict[str, Any], differing: list[str]) -> None:
    one, other = (
        killed_chain.contents(made(tmp_path / "one")),
        killed_chain.contents(made(tmp_path / "other", **change)),
    )
    assert killed_chain.differences(one, other) == differing
    assert killed_chain.differences({}, one) == sorted(one), "what is missing differs too"


def test_a_chain_is_killed_at_its_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "import os, pathlib,time; pathlib.Path('chain').write_text(str(os.getpid())); time.sleep(60)"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(killed_chain, "command", lambda *_: [killed_chain.sys.executable, "-c", said])
    assert killed_chain.kill_after(2.0, tmp_path, [], tmp_path / "log")
    assert not Path(f"/proc/{(tmp_path / 'chain').read_text()}").exists()


def test_a_chain_that_fails_by_itself_is_no_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed_chain, "command", lambda *_: [killed_chain.sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RunError, match="failed after a kill"):
        killed_chain.kill_after(30.0, tmp_path, [], tmp_path / "log")
    monkeypatch.setattr(killed_chain, "command", lambda *_: [killed_chain.sys.executable, "-c", ""])
    assert not killed_chain.kill_after(30.0, tmp_path, [], tmp_path / "log")
