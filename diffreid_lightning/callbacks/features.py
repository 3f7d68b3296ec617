"""What ``predict`` writes for a Re-ID module: the features of every image, and which image each belongs to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file

from diffreid_lightning.data.chain import Chain
from diffreid_lightning.reid.outputs import FeatureBatch


def feature_table(rows: Chain, indices: npt.NDArray[np.int64], is_query: npt.NDArray[np.bool_]) -> pa.Table:
    """Name the images behind features, in the words of their manifest.

    Args:
        rows: the set the features were made from.
        indices: (M,) the row of ``rows`` behind each feature.
        is_query: (M,) which of them are queries.

    Returns:
        M rows: ``file_name`` (inside the dataset's root), ``source``, ``partition``, ``pid`` and ``camid`` as the
        manifest has them, ``is_query``.
    """
    identities = [rows.identities[label] for label in rows.labels[indices].tolist()]
    columns = {
        "file_name": rows.file_names.take(pa.array(indices)),
        "source": pa.array([source for source, _, _ in identities], pa.string()),
        "partition": pa.array([partition for _, partition, _ in identities], pa.string()),
        "pid": pa.array([pid for _, _, pid in identities], pa.int64()),
        "camid": pa.array(rows.raw_camids[indices], pa.int64()),
        "is_query": pa.array(is_query, pa.bool_()),
    }
    return pa.table(columns)


class FeatureWriter(BasePredictionWriter):
    """Write ``features.safetensors`` and ``features.parquet`` in the run folder: row i of one belongs to row i of both.

    Tensors: ``features`` (N, D) float32, ``labels``, ``camids`` (N,) int64 as evaluation numbers them, ``is_query``
    (N,) bool. The table names the images, see :func:`feature_table`. Each process writes its batches as it goes, rank
    zero merges them; memory holds one batch until then.

    Args:
        name: file name of the features inside the run folder; the table's ends in ``.parquet`` instead.
    """

    def __init__(self, name: str = "features.safetensors") -> None:
        super().__init__(write_interval="batch")
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the run folder."""
        self._root = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        self._shards = self._root / f".{self.name}.shards"
        if stage == "predict":
            self._shards.mkdir(parents=True, exist_ok=True)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: FeatureBatch,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch."""
        tensors = {
            "features": prediction.features.float(),
            "labels": prediction.labels,
            "camids": prediction.camids,
            "is_query": prediction.is_query,
            "indices": prediction.indices,
        }
        path = self._shards / f"{trainer.global_rank:05d}-{batch_idx:08d}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the shards in row order; a row that two processes padded with counts once."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        shards = [load_file(path) for path in sorted(self._shards.glob("*.safetensors"))]
        merged = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
        rows, first = merged.pop("indices").unique(return_inverse=True)
        order = torch.empty_like(rows).scatter_(0, first, torch.arange(len(first)))
        tensors = {name: tensor[order].contiguous() for name, tensor in merged.items()}
        chain = trainer.datamodule.retrieval_set("test").rows  # type: ignore[attr-defined]
        table = feature_table(chain, rows.numpy(), tensors["is_query"].numpy())
        target = self._root / self.name
        named = target.with_suffix(".parquet")
        staged, staged_table = (path.with_name(f".{path.name}.part") for path in (target, named))
        save_file(tensors, staged)
        pq.write_table(table, staged_table)
        # The table first: whoever waits for the features finds the table beside them.
        staged_table.replace(named)
        staged.replace(target)
        shutil.rmtree(self._shards)
        rank_zero_info(f"Features of {len(rows)} images: {target}")
