"""The contact sheet shows what can be read."""

from __future__ import annotations

from pathlib import Path

from diffreid_lightning.datasets import Market1501
from diffreid_lightning.generation.contact_sheet import ContactSheet
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import write_market1501
from tests.unit.filtering.conftest import write_generated


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    real = Market1501(write_market1501(tmp_path / "market1501", train_ids=(2, 3))).manifest()
    made = Manifest.read(write_generated(tmp_path / "generated", tmp_path / "market1501", (2, 3)))
    whole = ContactSheet().rows(real, made)
    assert all(row.left and row.right for row in whole)
    for name in real.table["file_name"].to_pylist():
        (real.root / name).unlink()
    (made.root / made.table["file_name"][0].as_py()).write_bytes(b"no image")
    rows = ContactSheet().rows(real, made)
    assert not any(row.left for row in rows)
    assert sum(len(row.right) for row in rows) == sum(len(row.right) for row in whole) - 1
