"""Split a manifest into a fixed plan of batches, for the ``predict`` stages, on any number of processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from diffreid_lightning.errors import check_range, check_workers
from diffreid_lightning.manifest.manifest import Manifest


class StageRows(NamedTuple):
    """Prediction of a stage's module for one batch of a plan."""

    number: int  #: of the batch
    rows: pa.Table  #: one row per row of the batch, in order


class RemainingBatches(DistributedSampler[Any]):
    """Yield the numbers of the remaining batches; of R processes, rank r takes batches r, r + R, ... of them.

    Lightning keeps a ``DistributedSampler`` under any strategy. No batch is repeated to equalize the processes' shares.

    Args:
        numbers: the remaining batches.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, numbers: Sequence[int], rank: int, world_size: int) -> None:
        super().__init__(range(len(numbers)), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self._mine = list(numbers[rank::world_size])

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self._mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine)


class StageBatches(Dataset[Any]):
    """Batches of a stage's data module, by number."""

    def __init__(self, module: StageDataModule) -> None:
        self.module = module

    def __getitem__(self, number: int) -> Any:
        size = self.module.batch_size
        return self.module.load(number, range(number * size, min((number + 1) * size, self.module.rows)))


class StageDataModule(LightningDataModule):
    """Base of the data modules of ``predict`` stages: consecutive batches of rows, without the finished ones.

    A subclass defines ``manifest`` (its input), ``rows`` (number of rows in the plan) and ``load``. Its batches have a
    ``number``, which the stage's module returns with its prediction, see
    :class:`~diffreid_lightning.callbacks.manifest_writer.ManifestWriter`.

    Args:
        batch_size: rows per batch; part of the cache key.
        num_workers: loader processes.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        check_range("data.batch_size", batch_size, 1)
        check_workers("data.num_workers", num_workers)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._done: frozenset[int] = frozenset()

    @property
    @abstractmethod
    def manifest(self) -> Manifest:
        """Return the stage's input."""

    @property
    def rows(self) -> int:
        """Return the number of rows of the plan; the manifest's unless overridden."""
        return len(self.manifest)

    @property
    def batches(self) -> int:
        """Return the number of batches of the plan."""
        return -(-self.rows // self.batch_size)

    @property
    def cache_key(self) -> dict[str, Any]:
        """Return the settings that the batches depend on, as plain JSON values."""
        return {"manifest": self.manifest.content_hash, **self._images_key, "batch_size": self.batch_size}

    @cached_property
    def _images_key(self) -> dict[str, str]:
        """Hash the sizes of the image files: their times change where a job copies them to its node."""
        if not self.reads_images:
            return {}
        names = self.manifest.table["file_name"].to_pylist()
        return {"images": self.manifest.images.fingerprint(names, times=False)}

    @property
    def reads_images(self) -> bool:
        """Return true if batches hold images, so that changed files count; otherwise rows alone."""
        return True

    @abstractmethod
    def load(self, number: int, rows: range) -> Any:
        """Load one batch; called in a loader process.

        Args:
            number: of the batch.
            rows: its rows.
        """

    def rows_of(self, number: int) -> int:
        """Return the number of rows of a batch; 0 for a batch outside the plan."""
        return max(0, min(self.batch_size, self.rows - number * self.batch_size))

    def skip(self, done: set[int]) -> None:
        """Skip finished batches; call it before the loader is created."""
        self._done = frozenset(done)

    @property
    def rows_left(self) -> int:
        """Return the number of rows in unfinished batches."""
        return self.rows - sum(map(self.rows_of, self._done))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's share of the remaining batches."""
        left = [number for number in range(self.batches) if number not in self._done]
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return DataLoader(
            StageBatches(self),
            batch_size=None,
            sampler=RemainingBatches(left, rank, world),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
