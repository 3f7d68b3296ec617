"""A checkpoint is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from diffreid_lightning.checkpoint_io import AtomicCheckpointIO


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
