"""Write the features that ``predict`` computes, and the image of each."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from diffreid_lightning.datasets.concat import ConcatRows
from diffreid_lightning.metrics.functional.tiled_matmul import norms
from diffreid_lightning.reid.evaluation import require_retrieval_set
from diffreid_lightning.reid.outputs import FeatureBatch
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.resumable_array import reserve
from diffreid_lightning.training.trainer_parts import datamodule_of

_DTYPES = {"float32": "F32", "int64": "I64", "bool": "BOOL"}  # as the safetensors format calls them


def feature_table(rows: ConcatRows, indices: npt.NDArray[np.int64], is_query: npt.NDArray[np.bool_]) -> pa.Table:
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


def merge_shards(shards: Sequence[Path], target: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Put batches of features into one safetensors file, in row order; memory holds one batch, and the rows' numbers.

    The file is filled where it lies: ``safetensors.torch.save_file`` needs all tensors, and copies them once more.

    Args:
        shards: files of batches, with the row of each feature in ``indices``; a row may stand in several.
        target: the file to write.

    Returns:
        (M,) the rows that are there, ascending, and (M,) which of them are queries.
    """
    rows = np.unique(np.concatenate([_indices(shard) for shard in shards]))
    # Widest elements first, so that each tensor starts at a multiple of its element's size.
    kinds = sorted(load_file(shards[0]).items(), key=lambda item: -item[1].dtype.itemsize)
    shapes = {name: (values.dtype, (len(rows), *values.shape[1:])) for name, values in kinds if name != "indices"}
    merged = map_safetensors(target, shapes)
    for shard in shards:
        batch = load_file(shard)
        places = np.searchsorted(rows, batch.pop("indices"))
        for name, values in batch.items():
            merged[name][places] = values
    for array in merged.values():
        array.flush()
    return rows, np.array(merged["is_query"])


def _indices(shard: Path) -> npt.NDArray[np.int64]:
    """Read which rows a batch holds, without its features."""
    with safe_open(shard, framework="numpy") as tensors:
        indices: npt.NDArray[np.int64] = tensors.get_tensor("indices")
    return indices


def map_safetensors(
    path: Path, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> dict[str, np.memmap[Any, Any]]:
    """Make a safetensors file of zeros and map its tensors into memory, to be filled piece by piece.

    Args:
        path: the file to make.
        shapes: dtype (float32, int64 or bool) and shape of each tensor, in the file's order; none is empty.

    Raises:
        OSError: the disk has no room for it.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _DTYPES[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(start + end)
    reserve(path)
    return {
        name: np.memmap(path, dtype, "r+", start + header[name]["data_offsets"][0], shape)
        for name, (dtype, shape) in shapes.items()
    }


class FeatureWriter(BasePredictionWriter):
    """Write ``features.safetensors`` and ``features.parquet`` in the run folder: row i of one belongs to row i of both.

    Tensors: ``features`` (N, D) float32, ``labels``, ``camids`` (N,) int64 as evaluation numbers them, ``is_query``
    (N,) bool. The table names the images, see :func:`feature_table`. Each process writes its batches as it goes, rank
    zero merges them; memory holds one batch at a time.

    Args:
        name: file name of the features inside the run folder; the table's ends in ``.parquet`` instead.
    """

    def __init__(self, name: str = "features.safetensors") -> None:
        super().__init__(write_interval="batch")
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the run folder.

        Raises:
            UserError: the data do not name the images behind the features.
        """
        if stage == "predict":
            require_retrieval_set(trainer, type(self).__name__)
        self._root = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        self._shards = self._root / f".{self.name}.shards"
        if stage == "predict":
            if trainer.is_global_zero:
                shutil.rmtree(self._shards, ignore_errors=True)  # of a killed run, perhaps with another network
            trainer.strategy.barrier()
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
        """Write one batch.

        Raises:
            UserError: a feature is not finite.
        """
        norms("The network's output", prediction.features.float())
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
        target = self._root / self.name
        chain = datamodule_of(trainer).retrieval_set("test").rows
        # The table comes to its place first: whoever waits for the features finds the table beside them.
        with replace_file(target) as staged, replace_file(target.with_suffix(".parquet")) as staged_table:
            rows, is_query = merge_shards(sorted(self._shards.glob("*.safetensors")), staged)
            pq.write_table(feature_table(chain, rows, is_query), staged_table)
        shutil.rmtree(self._shards)
        rank_zero_info(f"Features of {len(rows)} images: {target}")
