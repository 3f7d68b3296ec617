"""A fixed plan of batches for stages that read a manifest and write another: same members, whoever does them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from diffreid_lightning.errors import check_at_least, check_workers
from diffreid_lightning.manifest.manifest import Manifest


class StageRows(NamedTuple):
    """Prediction of a stage's module for one batch of a plan."""

    number: int  #: of the batch
    rows: pa.Table  #: one row for each row of the batch, in its order


class RemainingBatches(DistributedSampler[Any]):
    """Yield the numbers of the batches that are left; of R processes, rank r takes the r-th, r + R-th, ...

    It is a ``DistributedSampler``, so Lightning leaves it in place under any strategy. No batch is repeated to make
    the processes' shares equal.

    Args:
        numbers: the batches that are left.
        rank: this process.
        world_size: how many there are.
    """

    def __init__(self, numbers: Sequence[int], rank: int, world_size: int) -> None:
        super().__init__(range(len(numbers)), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self._mine = list(numbers[rank::world_size])

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine)


class StageBatches(Dataset[Any]):
    """Whole batches by their number; what a stage's data module loads."""

    def __init__(self, module: StageDataModule) -> None:
        self.module = module

    def __getitem__(self, number: int) -> Any:
        size = self.module.batch_size
        return self.module.load(number, range(number * size, min((number + 1) * size, self.module.rows)))


class StageDataModule(LightningDataModule):
    """Base of the data modules of ``predict`` stages: rows in consecutive batches, those already done left out.

    A subclass gives ``manifest`` (what is read), ``rows`` (how many rows the plan covers) and ``load``; its batches
    have a ``number`` that the stage's module hands on with what it predicts, see
    :class:`~diffreid_lightning.callbacks.manifest_writer.ManifestWriter`.

    Args:
        batch_size: rows per batch. It belongs to the plan: another size is other work.
        num_workers: loader processes.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        check_at_least("data.batch_size", batch_size)
        check_workers("data.num_workers", num_workers)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._done: frozenset[int] = frozenset()

    @property
    @abstractmethod
    def manifest(self) -> Manifest:
        """Return the manifest that the stage reads."""

    @property
    def rows(self) -> int:
        """Rows of the plan; one per row of the manifest unless a subclass says otherwise."""
        return len(self.manifest)

    @property
    def batches(self) -> int:
        """Batches of the plan."""
        return -(-self.rows // self.batch_size)

    @property
    def cache_key(self) -> dict[str, Any]:
        """Return the settings that the batches depend on, as plain JSON values."""
        return {"manifest": self.manifest.content_hash, "batch_size": self.batch_size}

    @abstractmethod
    def load(self, number: int, rows: range) -> Any:
        """Load one batch; called in a loader process.

        Args:
            number: of the batch.
            rows: its rows.
        """

    def rows_of(self, number: int) -> int:
        """Count the rows of a batch; 0 for one that is not in the plan."""
        return max(0, min(self.batch_size, self.rows - number * self.batch_size))

    def skip(self, done: set[int]) -> None:
        """Leave out batches that are finished; called before the loader is made."""
        self._done = frozenset(done)

    @property
    def rows_left(self) -> int:
        """Rows of the batches that are not finished."""
        return self.rows - sum(map(self.rows_of, self._done))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches that are left, this process's share."""
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
