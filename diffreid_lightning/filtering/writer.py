"""Write the scored manifest, and beside it the files for the copy search."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch import LightningModule, Trainer

from diffreid_lightning.callbacks.manifest_writer import ManifestWriter, stage_datamodule
from diffreid_lightning.datasets.stage_data import StageRows
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.scored_manifest import REAL, THUMBNAILS
from diffreid_lightning.filtering.scorer import THUMBNAIL, ReIDScorer
from diffreid_lightning.filtering.scorer_checkpoint import RealImages
from diffreid_lightning.filtering.similarity import LENGTH
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.resumable_array import map_array, new_array


class ScoreWriter(ManifestWriter):
    """Write the scored manifest, ``thumbnails.npy`` (row i belongs to row i) and ``real_images.json``.

    Thumbnails are written to their rows of the array as batches finish, so memory holds one batch; several machines
    need a shared folder.

    Args:
        folder: output folder (the images are not copied).
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resume an earlier run."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        if not isinstance(pl_module, ReIDScorer):
            raise UserError(f"{type(pl_module).__name__} does not score.", remedy="use ManifestWriter, or ReIDScorer")
        self._real, self._calibration = pl_module.real, pl_module.calibration_text
        if trainer.is_global_zero and not self.parts.finished:
            self._create_thumbnails(stage_datamodule(trainer).rows)
        trainer.strategy.barrier()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: StageRows,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Store one batch: its thumbnails first, then the part that marks it as done."""
        thumbs = np.frombuffer(b"".join(prediction.rows[THUMBNAIL].to_pylist()), np.uint8).reshape(-1, LENGTH)
        store = np.lib.format.open_memmap(self._unfinished(), "r+")
        first = prediction.number * stage_datamodule(trainer).batch_size
        store[first : first + len(thumbs)] = thumbs
        store.flush()
        self.parts.put(prediction.number, prediction.rows.drop_columns([THUMBNAIL]))

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Rename the arrays into place; the manifest is written last."""
        if self._unfinished().exists():
            self._unfinished().replace(self._thumbnails())
        text = json.dumps(_describe(self._real, self._calibration), indent=2, sort_keys=True)
        with replace_file(self.folder / REAL) as staged:
            staged.write_text(text + "\n", encoding="utf-8")
        return super().result(read, rows)

    def _create_thumbnails(self, rows: int) -> None:
        """Create the array of thumbnails, unless it has earlier batches."""
        if not self.parts.finished_batches():
            new_array(self._unfinished(), np.uint8, (rows, LENGTH)).flush()
        else:
            file = self._unfinished() if os.path.lexists(self._unfinished()) else self._thumbnails()
            map_array(file, np.uint8, (rows, LENGTH), remedy=f"remove {self.folder} and score again")

    def _thumbnails(self) -> Path:
        return self.folder / THUMBNAILS

    def _unfinished(self) -> Path:
        return self.folder / f".{THUMBNAILS}"


def _describe(real: RealImages, calibration: str) -> dict[str, Any]:
    """Return the folders and distances of the real images, and the calibration, as JSON values."""
    roots: dict[str, list[str]] = {}
    for row in real.table.group_by(["source", "root"]).aggregate([]).to_pylist():
        roots.setdefault(row["source"], []).append(real.roots[row["root"]])
    return {"roots": roots, "gap": list(real.gap), "images": len(real.table), "calibration": calibration}
