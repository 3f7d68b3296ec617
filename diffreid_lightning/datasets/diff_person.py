"""Diff-Person: the folder of selected generated images that ``select`` writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from diffreid_lightning.datasets.manifest_dataset import ManifestDataset
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.storage.json_notes import parse_json

NOTE = "diff_person.json"


class DiffPerson(ManifestDataset):
    """Generated images of known people, kept by ``select``.

    All rows have split ``generated`` and the identity of the real person, so that training on both merges them. The
    folder can also be opened with the ``imagefolder`` loader of Hugging Face ``datasets``.

    Args:
        root: the folder (``OUT/diff_person`` of ``select``), or a .zip of it.
    """

    source = "diff_person"
    layout = f"{FILE_NAME} and {NOTE}, written by select"

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if the manifest and the note exist."""
        return super().has_layout(images) and images.exists(NOTE)

    @property
    def description(self) -> str:
        """Return the title and the sources of the identities."""
        manifest, _ = self.scan()
        sources = sorted(manifest.table["source"].unique().to_pylist())
        return f"{self.note().get('title', 'Diff-Person')} of {', '.join(sources)}"

    def note(self) -> dict[str, Any]:
        """Return the note of ``select``: counts, rules, generators, parents.

        Raises:
            UserError: the note is damaged.
        """
        images = self._place(ImageRoot(self.root))
        try:
            read = parse_json(images.read(NOTE))
        except ValueError as error:
            raise UserError(f"{images.path / NOTE} is damaged.", found=str(error), remedy="run select again") from error
        return read if isinstance(read, dict) else {}

    def _read(self) -> tuple[Manifest, int]:
        manifest = Manifest.read(self._place(ImageRoot(self.root)).path)
        made = np.asarray(pc.equal(manifest.table["split"], "generated"))
        if "kept" in manifest.columns:
            made &= np.asarray(pc.fill_null(manifest.table["kept"], False))
        if not made.all():
            names = manifest.table["file_name"].filter(~made).to_pylist()
            raise UserError(
                f"{self!r} holds images that were not selected.",
                looked_for="rows of split generated with kept = true",
                found=f"{len(names)} others: {shorten(names, 3)}",
                remedy="run select again, or open other manifests with ManifestDataset",
            )
        return manifest, 0
