"""Read the output of scoring: manifest, thumbnails, folders of the real images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.datasets.identities import identity_name
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.copy_search import LENGTH
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.schema import SCORED_COLUMNS
from diffreid_lightning.paths import absolute_path
from diffreid_lightning.storage.json_notes import read_json
from diffreid_lightning.storage.resumable_array import map_array

THUMBNAILS, FEATURES = "thumbnails.npy", "features.npy"
REAL = "real_images.json"
#: column with the reason why a row has no score
PROBLEM = "score_problem"
#: columns about the nearest real image: its name, its source, how far it is
NEAREST, NEAREST_SOURCE, REAL_DISTANCE = "nearest_real", "nearest_real_source", "real_distance"
#: column with the label whose generated images are nearest, as :func:`label_text` names it
NEAREST_LABEL = "nearest_label"


def label_text(key: IdentityKey) -> str:
    """Name a label as ``data.identities`` of generation takes it: ``market1501-0002``."""
    return identity_name(key).strip("<>")


@dataclass(frozen=True)
class ScoredFolder:
    """Scored manifest with the files beside it.

    Args:
        folder: of the manifest.
        manifest: the scored rows.
        real_roots: the folders or archives of the real images, by source; empty if unknown.
        real_gap: quantiles 0.01, 0.05, 0.5 of the distance from a real image to the nearest other one, or empty.
        calibration: description of the calibration; "" if unknown.
    """

    folder: Path
    manifest: Manifest
    real_roots: Mapping[str, Sequence[str]]
    real_gap: Sequence[float]
    calibration: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoredFolder:
        """Open the output folder of scoring.

        Args:
            path: the folder, or the manifest in it.

        Raises:
            UserError: there is no manifest, it breaks the contract, or it has not been scored.
        """
        manifest = Manifest.read(path)
        folder = absolute_path(path)
        folder = folder.parent if folder.suffix == ".parquet" else folder
        if not SCORED_COLUMNS.keys() & set(manifest.columns):
            raise UserError(
                f"The manifest at {path} has no scores.",
                looked_for=f"one of {', '.join(SCORED_COLUMNS)}",
                found=", ".join(manifest.columns),
                remedy="score it first: python -m diffreid_lightning predict --config stages/score_generated",
            )
        note = folder / REAL
        if not note.exists():
            return cls(folder, manifest, {}, (), "")
        read = read_json(
            note, {"roots": {str: [str]}, "gap": [float]}, remedy="remove it, or score the images into another folder"
        )
        return cls(folder, manifest, read["roots"], read["gap"], str(read.get("calibration", "")))

    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """Memory-map the images' thumbnails, (N, 1536).

        Raises:
            UserError: they are missing, damaged, or another manifest's.
        """
        file = self.folder / THUMBNAILS
        remedy = "score the images again into another folder, or give NearDuplicates generated: null"
        return map_array(file, np.uint8, (len(self.manifest), LENGTH), remedy=remedy)

    def features(self) -> npt.NDArray[np.float16] | None:
        """Memory-map the directions of the images' features, (N, D); None if scoring did not write them.

        Raises:
            UserError: they are damaged, or another manifest's.
        """
        file = self.folder / FEATURES
        remedy = (
            "remove this file to select without a measure of variety, or score the images again into another folder"
        )
        return map_array(file, np.float16, (len(self.manifest), None), remedy=remedy) if file.exists() else None

    def real_image(self, source: str, name: str) -> Image.Image | None:
        """Open a real image; None if its folder is not on this machine."""
        for root in self.real_roots.get(source, ()):
            try:
                return ImageRoot(root).image(name)
            except UserError:
                continue
        return None
