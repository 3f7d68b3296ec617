"""Write the manifest of a ``predict`` stage: the one it read with further columns, or a new one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.datasets.stage_datamodule import StageDataModule, StageRows
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.batch_store import BatchStore
from diffreid_lightning.training.trainer_parts import require_datamodule


class ManifestWriter(BasePredictionWriter):
    """Write the manifest that was read again, with the columns that were predicted.

    Each finished batch is kept at once; a killed stage, run again with the same folder, does the rest. The processes of
    a launch share the batches, and rank zero puts them together. The parents are what was read, and what the module
    says in ``trained_on``.

    Args:
        folder: where the manifest is written (its images stay where they are).
    """

    def __init__(self, folder: str) -> None:
        super().__init__(write_interval="batch")
        self.folder = user_path(folder)
        self._parts: BatchStore | None = None

    @property
    def parts(self) -> BatchStore:
        """The batches that are finished."""
        assert self._parts is not None
        return self._parts

    @property
    def cache_key(self) -> dict[str, Any]:
        """Return the settings that the result depends on besides data and module, as plain JSON values."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take up earlier work, and leave it out of the plan."""
        if stage != "predict":
            return
        data = stage_datamodule(trainer)
        work = {**data.cache_key, **getattr(pl_module, "cache_key", {}), **self.cache_key}
        self._parts = BatchStore(self.folder, work, data.rows_of)
        if trainer.is_global_zero:
            self._look_at_result()
            self.parts.begin()
        trainer.strategy.barrier()
        done = set(range(data.batches)) if self.parts.finished else self.parts.finished_batches()
        data.skip(done)
        if done:
            rank_zero_info(f"{len(done)} of {data.batches} batches were done before: {self.folder}")
        trainer.strategy.barrier()  # nobody adds to the folder before everybody has read it

    def _look_at_result(self) -> None:
        """Make a result again that is not there any more, or cannot be read."""
        if not self.parts.finished:
            return
        try:
            Manifest.read(self.folder)
        except UserError as error:
            rank_zero_info(f"what this stage made before cannot be read, it is made again: {error.what}")
            self.parts.reopen()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: StageRows, *args: Any
    ) -> None:
        """Keep one batch."""
        self.parts.put(prediction.number, prediction.rows)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the batches together; the parts are removed once the manifest is written.

        Not ``on_predict_end``: a process for which no batch was left does not get there.
        """
        if stage != "predict":
            return
        trainer.strategy.barrier()
        if trainer.is_global_zero and not self.parts.finished:
            self._put_together(trainer, pl_module)
        self.parts.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let another command go on."""
        if self._parts is not None:
            self._parts.release()

    def _put_together(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = stage_datamodule(trainer)
        left = data.batches - len(self.parts.finished_batches())
        if left:  # trainer.limit_predict_batches
            rank_zero_info(f"{left} of {data.batches} batches are left for another run: {self.folder}")
            return
        manifest = self.result(data.manifest, self.parts.merge())
        # What the module was trained on has gone into the rows as well as what it read.
        manifest = manifest.with_parents(dict.fromkeys([*manifest.parents, *getattr(pl_module, "trained_on", ())]))
        manifest.write(self.folder)
        self.parts.finish()
        rank_zero_info(f"{len(manifest)} rows: {self.folder / FILE_NAME}")

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Make the manifest that is written.

        Args:
            read: what the stage read.
            rows: what it predicted, in the plan's order.
        """
        columns = {name: rows[name] for name in rows.column_names}
        return read.with_columns(columns).with_parents([read.content_hash])


def stage_datamodule(trainer: Trainer) -> StageDataModule:
    """Return the trainer's data module.

    Raises:
        UserError: it has no plan.
    """
    remedy = "drop ManifestWriter from trainer.callbacks, or choose the stage's own data module"
    return require_datamodule(trainer, StageDataModule, "ManifestWriter", remedy)  # type: ignore[type-abstract]
