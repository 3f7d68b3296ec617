"""A manifest taken as a dataset: what a stage wrote, or what you made from data of your own."""

from __future__ import annotations

import os

from diffreid_lightning.datasets.base import PersonDataset, Rows
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest


class ManifestDataset(PersonDataset):
    """A folder (or .zip) with a ``metadata.parquet``, or the Parquet file itself.

    Args:
        root: the folder, archive or ``.parquet`` file.
    """

    source = "manifest"
    """For messages; the rows keep the sources they have."""
    layout = f"{FILE_NAME}, as a stage of this package writes it"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether there is a ``metadata.parquet``."""
        return images.exists(FILE_NAME)

    @property
    def description(self) -> str:
        """The sources of its rows."""
        return "manifest of " + ", ".join(sorted(self.scan()[0].table["source"].unique().to_pylist()))

    def _read(self) -> tuple[Manifest, int]:
        if self.root.suffix == ".parquet":
            return Manifest.read(self.root), 0
        return Manifest.read(self._place(ImageRoot(self.root)).path), 0

    def _rows(self, images: ImageRoot) -> Rows:
        raise NotImplementedError("a manifest's rows are read whole")
