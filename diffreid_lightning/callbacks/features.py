"""What ``predict`` writes for a Re-ID module: the features of every image."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file

from diffreid_lightning.data.reid import PersonBatch


class FeatureWriter(BasePredictionWriter):
    """Write ``features.safetensors`` in the run folder: row i belongs to row i of the predicted set.

    Tensors: ``features`` (N, D) float32, ``labels``, ``camids`` (N,) int64, ``is_query`` (N,) bool. Each process
    writes its batches as it goes, rank zero merges them; memory holds one batch until then.

    Args:
        name: file name inside the run folder.
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
        prediction: PersonBatch,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch."""
        tensors = {
            "features": prediction.images.float(),
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
        target = self._root / self.name
        staged = target.with_name(f".{target.name}.part")
        save_file({name: tensor[order].contiguous() for name, tensor in merged.items()}, staged)
        staged.replace(target)
        shutil.rmtree(self._shards)
        rank_zero_info(f"Features of {len(rows)} images: {target}")
