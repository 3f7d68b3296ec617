"""What an earlier configuration made: kept, out of the way.

All that one run of a chain puts aside lies in ``<root>/previous/<number>``, with its records as the chain keeps them.
Manifests still find the images they were made of, and no others under the same names: those of another stage are linked
to where that stage's place is about to be taken, or found where it was put aside earlier.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from diffreid_lightning.data.export import place_images
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest import FILE_NAME, Manifest
from diffreid_lightning.pipeline.record import Record, record_file
from diffreid_lightning.whole_folder import replacing

_PREVIOUS = "previous"


class Aside:
    """Where a run of a chain puts what it replaces.

    A kill at any moment loses nothing: manifests are mended where they lie before a stage's folder is moved, and may be
    mended again.

    Args:
        root: the chain's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 (as manifests write theirs, without '..')
        earlier = self._earlier()
        self._folder = self.root / _PREVIOUS / f"{1 + int(earlier[0].name) if earlier else 1:03d}"

    def put(self, name: str) -> Path:
        """Move what a stage made, and say where to.

        Raises:
            RunError: the disk refuses; what the stage made is still there.
        """
        place, record = self.root / name, Record.read(record_file(self.root, name))
        try:
            for file in sorted(place.rglob(FILE_NAME)):
                with suppress(UserError):  # a damaged one, or one whose images are gone, is moved as it is
                    self._detach(file, place, {} if record is None else record.ancestors)
            self._folder.mkdir(parents=True, exist_ok=True)
            if record is not None:
                record.write(record_file(self._folder, name))
            return place.rename(self._folder / name)
        except OSError as error:
            raise RunError(
                f"What stage {name!r} made earlier cannot be put aside.",
                looked_for=str(self._folder / name),
                found=f"{type(error).__name__}: {error}",
                remedy=f"free disk space, or move {place} away yourself",
            ) from error

    def _detach(self, file: Path, place: Path, ancestors: dict[str, str]) -> None:
        """Let a manifest find its images from wherever it is moved to."""
        manifest = Manifest.read(file)
        images = manifest.root
        if place in images.parents:
            return  # they move with it
        maker, *below = images.relative_to(self.root).parts if self.root in images.parents else ("",)
        made = ancestors.get(maker)
        if made is not None and _output(self.root, maker) == made:
            linked = file.parent / f"images_of_{maker}"
            names = manifest.table["file_name"].to_pylist()
            with replacing(linked) as partial:
                place_images(manifest.images, names, partial, names, f"keeping images of {maker}")
            Manifest(manifest.table, linked, manifest.parents).write(file)
            return
        if made is not None:
            kept = [folder for folder in self._earlier() if _output(folder, maker) == made]
            images = kept[0].joinpath(maker, *below) if kept else images
        Manifest(manifest.table, images, manifest.parents).write(file, relative=False)

    def _earlier(self) -> list[Path]:
        """Folders of earlier runs, the latest first."""
        found = [path for path in (self.root / _PREVIOUS).glob("*") if path.name.isdecimal()]
        return sorted(found, key=lambda path: -int(path.name))


def _output(root: Path, name: str) -> str | None:
    """The output hash of a finished stage below a root."""
    record = Record.read(record_file(root, name))
    return None if record is None else record.output
