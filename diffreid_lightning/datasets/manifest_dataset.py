"""A manifest as a dataset: the output of a stage, or a manifest made from your own data."""

from __future__ import annotations

import os

from diffreid_lightning.datasets.base import PersonDataset
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest


class ManifestDataset(PersonDataset):
    """A folder (or .zip) with a ``metadata.parquet``, or the Parquet file itself.

    Args:
        root: the folder, archive or ``.parquet`` file.
    """

    source = "manifest"
    """Used in messages; the rows keep their own sources."""
    layout = f"{FILE_NAME}, written by a stage of this package"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if there is a ``metadata.parquet``."""
        return images.exists(FILE_NAME)

    @property
    def description(self) -> str:
        """Return the sources of its rows."""
        return "manifest of " + ", ".join(sorted(self.scan()[0].table["source"].unique().to_pylist()))

    def _read(self) -> tuple[Manifest, int]:
        if self.root.suffix == ".parquet":
            return Manifest.read(self.root), 0
        return Manifest.read(self._place(ImageRoot(self.root)).path), 0
