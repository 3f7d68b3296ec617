"""Write the scored manifest with the images' consistency, and beside it the files that compare images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.callbacks.manifest_writer import ManifestWriter, stage_datamodule
from diffreid_lightning.datasets.stage_datamodule import StageRows
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.consistency import consistency
from diffreid_lightning.filtering.copy_search import LENGTH
from diffreid_lightning.filtering.scored_manifest import (
    FEATURES,
    NEAREST_LABEL,
    PROBLEM,
    REAL,
    THUMBNAILS,
    label_text,
)
from diffreid_lightning.filtering.scorer import FEATURE, THUMBNAIL, ReIDScorer
from diffreid_lightning.filtering.scorer_checkpoint import RealImages
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.json_notes import damaged_error, replace_json
from diffreid_lightning.storage.resumable_array import map_array, new_array

_FLOAT = np.dtype(np.float16)  # of directions, whose cosines then differ by less than 0.001


class ScoreWriter(ManifestWriter):
    """Write the scored manifest, ``thumbnails.npy``, ``features.npy`` (row i belongs to row i), ``real_images.json``.

    Thumbnails and features are written to their rows of the arrays as batches finish, so memory holds one batch;
    several machines need a shared folder. When all images are scored, one process computes their ``consistency``.

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
        self._real, self._calibration = pl_module.folder.real, pl_module.calibration_text
        width = pl_module.network.backbone.num_features
        self._arrays: dict[str, tuple[str, np.dtype[Any], int]] = {
            THUMBNAILS: (THUMBNAIL, np.dtype(np.uint8), LENGTH),
            FEATURES: (FEATURE, _FLOAT, width),
        }
        if trainer.is_global_zero and not self.parts.finished:
            self._create_arrays(stage_datamodule(trainer).rows)
        trainer.strategy.barrier()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: StageRows, *args: Any
    ) -> None:
        """Store one batch: its rows of the arrays first, then the part that marks it as done."""
        first = prediction.number * stage_datamodule(trainer).batch_size
        for name, (column, dtype, width) in self._arrays.items():
            values = np.frombuffer(b"".join(prediction.rows[column].to_pylist()), dtype).reshape(-1, width)
            store = np.lib.format.open_memmap(self._unfinished(name), "r+")
            store[first : first + len(values)] = values
            store.flush()
        self.parts.put(prediction.number, prediction.rows.drop_columns([THUMBNAIL, FEATURE]))

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Rename the arrays into place and compare the images; the manifest is written last."""
        for name in self._arrays:
            if self._unfinished(name).exists():
                self._unfinished(name).replace(self.folder / name)
        rows = self._compare(read, rows)
        replace_json(self.folder / REAL, _describe(self._real, self._calibration))
        return super().result(read, rows)

    def _create_arrays(self, rows: int) -> None:
        """Create the arrays, unless they have earlier batches."""
        for name, (_, dtype, width) in self._arrays.items():
            if not self.parts.finished_batches():
                new_array(self._unfinished(name), dtype, (rows, width)).flush()
            else:
                file = self._unfinished(name) if os.path.lexists(self._unfinished(name)) else self.folder / name
                map_array(file, dtype, (rows, width), remedy=f"remove {self.folder} and score again")

    def _unfinished(self, name: str) -> Path:
        return self.folder / f".{name}"

    def _compare(self, read: Manifest, rows: pa.Table) -> pa.Table:
        """Add the consistency of the generated images that have scores, and the label to which each is nearest."""
        scored = pc.and_(pc.equal(read.table["split"], "generated"), pc.is_null(rows[PROBLEM]))
        labels, keys = read.identities()
        rank_zero_info(f"comparing {len(read):,} images with the others of their label")
        file, remedy = self.folder / FEATURES, f"remove {self.folder} and score again"
        features = map_array(file, _FLOAT, (len(read), None), remedy=remedy)
        try:
            found = consistency(features, np.where(np.asarray(scored), labels, -1))
        except ValueError as error:
            raise damaged_error(file, str(error), looked_for="finite numbers", remedy=remedy) from error
        missing = found.nearest < 0
        texts = pa.array([*map(label_text, keys), None], pa.string())
        rows = rows.append_column("consistency", pa.array(found.scores, pa.float64(), mask=missing))
        places = pa.array(np.where(missing, len(keys), found.nearest))
        return rows.append_column(NEAREST_LABEL, texts.take(places))


def _describe(real: RealImages, calibration: str) -> dict[str, Any]:
    """Return the folders and distances of the real images, and the calibration, as JSON values."""
    roots: dict[str, list[str]] = {}
    for row in real.table.group_by(["source", "root"]).aggregate([]).to_pylist():
        roots.setdefault(row["source"], []).append(real.roots[row["root"]])
    return {"roots": roots, "gap": list(real.gap), "images": len(real.table), "calibration": calibration}
