"""Blockwise search against a sorted matrix of cosines."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffreid_lightning.deployment.feature_files import FeatureFile, open_features, write_features
from diffreid_lightning.deployment.gallery_search import nearest_in_blocks, search
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.archive import Archive
from diffreid_lightning.storage.json_notes import DamagedFile
from tests.fixtures.dataset_layouts import zip_folder


def cosines(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    left, right = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, gallery))
    return left @ right.T


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("top", [1, 5, 200])
def test_blocks_give_what_the_whole_matrix_gives(size: int, top: int) -> None:
    generator = np.random.default_rng(size + top)
    gallery = generator.normal(size=(130, 6)).astype(np.float32)
    queries, ids = gallery[40:60], np.arange(40, 60)
    blocks = ((start, gallery[start : start + size]) for start in range(0, len(gallery), size))
    indices, found = nearest_in_blocks(queries, ids, blocks, np.arange(len(gallery)), top)
    wanted = cosines(queries, gallery)
    wanted[np.arange(20), ids] = -np.inf  # an image does not find itself
    order = np.argsort(-wanted, axis=1, kind="stable")[:, : min(top, 129)]
    np.testing.assert_array_equal(indices[:, :129], order)
    np.testing.assert_allclose(found[:, :129], np.take_along_axis(wanted, order, 1), atol=1e-6)
    assert (indices[:, 129:] == -1).all() and np.isnan(found[:, 129:]).all()


def write(folder: Path, name: str, features: np.ndarray, **network: object) -> FeatureFile:
    count = len(features)
    for row in range(count):
        Image.new("RGB", (16, 32), (20 * row, 80, 120)).save(folder / f"{name}{row}.png")
    rows = pa.table(
        {
            "file_name": [f"{name}{row}.png" for row in range(count)],
            "source": ["crops"] * count,
            "partition": ["test"] * count,
            "split": ["query"] * count,
            "pid": pa.array([row if row else None for row in range(count)], pa.int64()),
            "camid": pa.nulls(count, pa.int64()),
        }
    )
    record = {"weights": "w", "num_features": features.shape[1], "flip_average": False} | network
    about = {"images": str(folder), "network": record, "key": "k"}
    write_features(folder / f"{name}.parquet", rows, features, about)
    opened = open_features(folder / f"{name}.parquet")
    assert opened is not None
    return opened


def test_matches_are_a_table_and_a_picture(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    queries, gallery = (generator.normal(size=(count, 5)).astype(np.float32) for count in (3, 8))
    query, others = write(tmp_path, "q", queries), write(tmp_path, "g", gallery)
    search(query, others, tmp_path / "out", top=4)
    with (tmp_path / "out/matches.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4"] * 3
    wanted = cosines(queries, gallery)
    order = np.argsort(-wanted, axis=1)[:, :4]
    assert [line["gallery"] for line in lines] == [f"g{index}.png" for index in order.ravel()]
    similarities = [float(line["similarity"]) for line in lines]
    np.testing.assert_allclose(similarities, np.take_along_axis(wanted, order, 1).ravel(), atol=1e-5)
    colors = {color for _, color in Image.open(tmp_path / "out/rank_lists.png").getcolors(1 << 16)}
    assert {(34, 160, 70), (214, 50, 48)} & colors  # people are framed where both are known
    (tmp_path / "g0.png").unlink()  # an image that is gone does not keep the others from being drawn
    search(query, others, tmp_path / "out", top=8)


def test_an_archive_of_images_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write(tmp_path, "q", np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    file = replace(made, images=zip_folder(tmp_path, tmp_path / "images.zip"))
    opened, read = [], Archive._read_directory
    monkeypatch.setattr(Archive, "_read_directory", lambda archive: opened.append(archive) or read(archive))
    search(file, file, tmp_path / "out", top=4)
    assert len(opened) == 1


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "dropped": lambda table: table.drop_columns(["source"]),
    "twice": lambda table: table.append_column("pid", table["pid"]),
    "lists": lambda table: table.set_column(0, "file_name", pa.array([["a.png"]] * len(table))),
    "nulls": lambda table: table.set_column(0, "file_name", pa.nulls(len(table), pa.string())),
    "text": lambda table: table.set_column(6, "feature", pa.array(["x"] * len(table))),
    "double": lambda table: table.set_column(6, "feature", table["feature"].cast(pa.list_(pa.float64(), 4))),
    "no rows": lambda table: table.slice(0, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_without_the_columns_is_no_file_of_features(change: str, tmp_path: Path) -> None:
    opened = write(tmp_path, "g", np.ones((3, 4), np.float32))
    pq.write_table(CHANGES[change](pq.read_table(opened.path)), opened.path)
    assert open_features(opened.path) is None


def test_a_block_that_is_damaged_is_named(tmp_path: Path) -> None:
    query = write(tmp_path, "q", np.ones((3, 4), np.float32))
    content = bytearray(query.path.read_bytes())
    place = pq.read_metadata(query.path).row_group(0).column(6).data_page_offset
    content[place : place + 40] = bytes(40)
    query.path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"damaged.*q\.parquet"):
        search(query, query, tmp_path / "out")
    table = pq.read_table(write(tmp_path, "q", np.ones((3, 4), np.float32)).path)
    gap = pa.array([[1.0] * 4, None, [1.0] * 4], pa.list_(pa.float32(), 4))
    pq.write_table(table.set_column(6, "feature", gap).cast(table.schema), query.path)
    with pytest.raises(DamagedFile, match=r"damaged.*q\.parquet"):
        search(query, query, tmp_path / "out")


@pytest.mark.parametrize("difference", [{"weights": "other"}, {"flip_average": True}])
def test_features_of_two_networks_are_not_compared(difference: dict[str, object], tmp_path: Path) -> None:
    features = np.ones((2, 4), np.float32)
    with pytest.raises(UserError, match=rf"(?s)two networks.*differ in {next(iter(difference))}"):
        search(write(tmp_path, "q", features), write(tmp_path, "g", features, **difference), tmp_path / "out")
