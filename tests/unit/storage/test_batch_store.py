"""Batches of a stage that are damaged between two launches: made again, or refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage.batch_store import NOTE, BatchStore

WORK = {"manifest": "abc", "batch_size": 2}


def rows(number: int) -> pa.Table:
    return pa.table({"caption": [f"{number}a", f"{number}b"]})


def begun(folder: Path, batches: int = 3) -> BatchStore:
    parts = BatchStore(folder, WORK, lambda number: 2)
    parts.begin()
    for number in range(batches):
        parts.put(number, rows(number))
    parts.release()
    return BatchStore(folder, WORK, lambda number: 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:60]),
        lambda file: pq.write_table(rows(1).slice(0, 1), file),
        lambda file: (file.unlink(), file.symlink_to("nowhere")),
    ],
)
def test_a_damaged_batch_is_done_again(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    parts = begun(tmp_path)
    damage(tmp_path / ".parts" / "00000001.parquet")
    parts.begin()
    assert parts.finished_batches() == {0, 2}
    assert "damaged batches are repeated: 00000001.parquet" in caplog.text
    parts.put(1, rows(1))
    assert parts.merge()["caption"].to_pylist() == ["0a", "0b", "1a", "1b", "2a", "2b"]
    parts.release()


def test_a_folder_in_a_batchs_place_is_named(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    file = tmp_path / ".parts" / "00000001.parquet"
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"00000001\.parquet"):
        parts.begin()
    parts.release()


def test_a_batch_of_other_columns_is_named_and_its_remedy_works(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    file = tmp_path / ".parts" / "00000001.parquet"
    pq.write_table(pa.table({"captoin": ["a", "b"]}), file)
    parts.begin()
    with pytest.raises(UserError, match=r"00000001\.parquet") as caught:
        parts.merge()
    assert f"remove {file}" in str(caught.value.remedy)
    file.unlink()
    parts.put(1, rows(1))
    assert len(parts.merge()) == 6
    parts.release()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a":' * 5000])
@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_note_is_refused_and_the_batches_stay(tmp_path: Path, content: bytes, finished: bool) -> None:
    parts = begun(tmp_path)
    note = (tmp_path if finished else tmp_path / ".parts") / NOTE
    note.write_bytes(content)
    with pytest.raises(UserError, match=r"stage\.json") as caught:
        parts.begin()
    parts.release()
    assert parts.finished_batches() == {0, 1, 2}
    assert f"remove {note.parent}" in str(caught.value.remedy)


def test_a_folder_in_the_locks_place_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"lock file cannot be created at .*\.lock"):
        BatchStore(tmp_path, WORK).begin()
