"""Hashes of files and tensors, which name caches in users' folders and must not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from diffreid_lightning.storage import content_hash


def test_a_file_is_hashed_whole_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_hash, "_BLOCK", 4)
    (tmp_path / "file").write_bytes(b"three blocks")
    digest = hashlib.sha256(b"before ")
    content_hash.add_content(digest, tmp_path / "file")
    assert digest.digest() == hashlib.sha256(b"before three blocks").digest()


def test_tensors_are_hashed_by_name_and_content() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T, "a": torch.tensor([7])}
    expected = b"a" + tensors["a"].numpy().tobytes() + b"b" + tensors["b"].numpy().tobytes()
    assert content_hash.hash_tensors(tensors) == hashlib.sha256(expected).hexdigest()
