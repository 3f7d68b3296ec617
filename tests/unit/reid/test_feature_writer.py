"""Every feature can be traced to its image."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import load_file, save_file

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.feature_writer import FeatureWriter, feature_table, merge_shards
from diffreid_lightning.reid.outputs import FeatureBatch
from diffreid_lightning.reid.person_images import PersonBatch
from tests.fixtures.color_features import Colors


def test_row_i_of_the_table_names_the_image_of_feature_i(
    data: ReIDDataModule, market: Path, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer(FeatureWriter()).predict(Colors(), datamodule=data, return_predictions=False)
    tensors, table = load_file(tmp_path / "features.safetensors"), pq.read_table(tmp_path / "features.parquet")
    assert table.column_names == ["file_name", "source", "partition", "pid", "camid", "is_query"]
    assert len(table) == len(tensors["features"]) == len(data.test_set)
    assert {path.name for path in tmp_path.iterdir()} == {"features.safetensors", "features.parquet"}
    for row, feature, is_query in zip(table.to_pylist(), tensors["features"], tensors["is_query"], strict=True):
        path = market / row["file_name"]
        picture = Image.open(path).convert("RGB").resize((8, 16), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        expected = torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten()
        assert (feature - expected).abs().max() < 0.02
        pid, camera = path.name.split("_")[:2]
        assert row["pid"] == int(pid)
        assert row["camid"] == int(camera[1])
        assert row["is_query"] == bool(is_query) == (path.parent.name == "query")


def test_features_that_are_not_finite_are_not_written(
    data: ReIDDataModule, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    class Diverged(Colors):
        def predict_step(self, batch: PersonBatch, batch_idx: int) -> FeatureBatch:
            found: FeatureBatch = self.test_step(batch, batch_idx)
            return found._replace(features=found.features / 0)

    with pytest.raises(UserError, match="not finite"):
        trainer(FeatureWriter()).predict(Diverged(), datamodule=data, return_predictions=False)
    assert not (tmp_path / "features.safetensors").exists()


def test_batches_of_a_killed_run_are_not_mixed_in(
    data: ReIDDataModule, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    left = tmp_path / ".features.safetensors.shards"
    left.mkdir()
    columns = {"labels": torch.zeros(1).long(), "camids": torch.zeros(1).long(), "is_query": torch.ones(1).bool()}
    stale = {"features": torch.full((1, 12), 9.0), "indices": torch.zeros(1).long(), **columns}
    save_file(stale, left / "00000-99999999.safetensors")
    trainer(FeatureWriter()).predict(Colors(), datamodule=data, return_predictions=False)
    assert load_file(tmp_path / "features.safetensors")["features"].max() <= 1


def test_merging_orders_rows_counts_each_once_and_holds_one_batch(tmp_path: Path) -> None:
    count, dimension, size = 4000, 500, 50
    features = torch.arange(count * dimension, dtype=torch.float32).view(count, dimension)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    order = torch.cat([order, order[:size]])  # what a process padded its share with
    order = order[order % 7 > 0]  # and some rows are not there
    shards = []
    for number, rows in enumerate(order.split(size)):
        shards.append(tmp_path / f"{number:03d}.safetensors")
        columns = {"labels": rows * 2, "camids": rows % 6, "is_query": rows < 9, "indices": rows}
        save_file({"features": features[rows], **columns}, shards[-1])
    tracemalloc.start()
    rows, is_query = merge_shards(shards, tmp_path / "merged")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < features.nbytes / 8
    expected = torch.tensor([row for row in range(count) if row % 7])
    assert rows.tolist() == expected.tolist()
    assert is_query.tolist() == [row < 9 for row in rows]
    merged = load_file(tmp_path / "merged")
    assert merged.keys() == {"features", "labels", "camids", "is_query"}
    for name, wanted in (("features", features[expected]), ("labels", expected * 2), ("is_query", expected < 9)):
        assert merged[name].dtype == wanted.dtype
        assert torch.equal(merged[name], wanted)


def test_the_table_of_a_part_follows_its_rows(data: ReIDDataModule) -> None:
    rows = data.test_set.rows
    everything = feature_table(rows, np.arange(len(rows)), data.test_set.is_query)
    chosen = np.random.default_rng(0).permutation(len(rows))[:5]
    part = feature_table(rows, chosen, data.test_set.is_query[chosen])
    assert part.equals(everything.take(chosen))
