"""A checkpoint is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage.checkpoint_io import AtomicCheckpointIO


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder/last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        writer.save_checkpoint({"epoch": 2, "weights": torch.zeros(1000)}, path)
    assert caught.value.filename == str(path)
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"epoch": 1}


SOUND = {"state_dict": {"w": torch.zeros(2)}, "pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 3}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"state_dict": None}, "state_dict is not an object"), ({"state_dict": {"w": 1.0}}, "state_dict.w is"),
        ({"pytorch-lightning_version": 2}, "version"),
        ({"epoch": "x"}, "epoch is 'x'"), ({"callbacks": []}, "callbacks"),
        ({"epoch": Payload()}, "UnpicklingError"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_a_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.ckpt"
    reader = AtomicCheckpointIO()
    torch.save(SOUND, file)
    assert reader.load_checkpoint(file, weights_only=True)["global_step"] == 3
    torch.save({**SOUND, "state_dict": {"w": torch.zeros(2), "pool._extra_state": {"p": 3}}}, file)
    assert reader.load_checkpoint(file, weights_only=True)["state_dict"]["pool._extra_state"] == {"p": 3}
    torch.save({**SOUND, **changed}, file)
    with pytest.raises(UserError, match=r"a\.ckpt") as caught:
        reader.load_checkpoint(file, weights_only=True)
    assert found in str(caught.value.found)
    assert not Path("executed").exists()


@pytest.mark.parametrize("missing", SOUND)
def test_what_a_checkpoint_lacks_is_named(tmp_path: Path, missing: str) -> None:
    torch.save({key: value for key, value in SOUND.items() if key != missing}, tmp_path / "a.ckpt")
    with pytest.raises(UserError) as caught:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert missing in str(caught.value.found)


def test_a_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(SOUND, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(file, weights_only=True)
