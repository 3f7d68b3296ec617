"""Move the outputs of an earlier configuration aside, and keep them readable.

All that one run of a chain puts aside lies in ``<root>/previous/<number>``, with its records as the chain keeps them.
Its manifests still find the images they were made of, or say that these are gone; never others under the same names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from diffreid_lightning.datasets.market_export import place_images
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.pipeline.fingerprints import Record, begun_file, record_file
from diffreid_lightning.pipeline.graph import PREVIOUS

_MENDED = ".mended"


class Aside:
    """Folder into which one run of a chain moves the outputs it replaces.

    A kill at any moment loses nothing and mixes nothing: what is put aside moves in one step, and the manifests that
    must be mended then lie beside it already, under a hidden name. Who comes next completes or forgets them.

    Args:
        root: the chain's folder.
        stages: names of the chain's stages: in their folders other images may come to lie under the same names.
    """

    def __init__(self, root: Path, stages: Collection[str]) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 (as manifests write theirs, without '..')
        self._stages = stages
        earlier = self._earlier()
        for folder in earlier:
            for mended in folder.glob(f".*{_MENDED}"):
                _complete(mended, folder / mended.name[1 : -len(_MENDED)])
        self._folder = self.root / PREVIOUS / f"{1 + int(earlier[0].name) if earlier else 1:03d}"

    def put(self, name: str) -> Path:
        """Move the outputs of a stage aside, and return their new folder.

        Raises:
            RunError: the disk refuses; what the stage made is still there.
        """
        place, kept, mended = self.root / name, self._folder / name, self._folder / f".{name}{_MENDED}"
        try:
            record = Record.read(record_file(self.root, name)) or Record.read(begun_file(self.root, name))
            ancestors = {} if record is None else record.ancestors
            mended.mkdir(parents=True)
            for file in sorted(place.rglob(FILE_NAME)):
                self._mend(file, place, mended, ancestors)
            if record is not None:
                record.write(record_file(self._folder, name))
            place.rename(kept)
            _complete(mended, kept)
        except OSError as error:
            raise RunError(
                f"What stage {name!r} made earlier cannot be put aside.",
                looked_for=str(kept),
                found=f"{type(error).__name__}: {error}",
                remedy=f"free disk space, or move {place} away yourself",
            ) from error
        return kept

    def _mend(self, file: Path, place: Path, mended: Path, ancestors: dict[str, str]) -> None:
        """Write a manifest that finds its images from its new place, which is as deep as ``mended``."""
        try:
            manifest = Manifest.read(file)
        except UserError:
            return  # a damaged one is moved as it is
        images = manifest.root
        if images == place or place in images.parents:
            return  # they move with it
        target = mended / file.relative_to(place)
        if self.root in images.parents:
            maker, *below = images.relative_to(self.root).parts
            if maker in self._stages:
                found = self._images(maker, ancestors.get(maker))
                images = target.parent / f"images_of_{maker}"
                if found is not None and found.parent != self.root:  # it moves no more
                    images = found.joinpath(*below)
                elif found is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(manifest, images)
        Manifest(manifest.table, images, manifest.parents).write(target)

    def _images(self, maker: str, made: str | None) -> Path | None:
        """Find an earlier output of a stage by its hash; None if it is gone or its hash is unknown."""
        if made is None:
            folders = [self._folder]  # hash unknown: only the output that was just moved can be meant
        else:
            folders = [folder for folder in (self.root, *self._earlier()) if _output(folder, maker) == made]
        return next((folder / maker for folder in folders if (folder / maker).is_dir()), None)

    def _earlier(self) -> list[Path]:
        """Return the folders of earlier runs, the latest first."""
        found = [path for path in (self.root / PREVIOUS).glob("*") if path.name.isdecimal()]
        return sorted(found, key=lambda path: -int(path.name))


def _output(root: Path, name: str) -> str | None:
    """Return the output hash of a finished stage below a root."""
    record = Record.read(record_file(root, name))
    return None if record is None else record.output


def _link(manifest: Manifest, images: Path) -> None:
    """Link a manifest's images into its folder; none if one is missing."""
    names = manifest.table["file_name"].to_pylist()
    try:
        place_images(manifest.images, names, images, names, "keeping images")
    except UserError:
        shutil.rmtree(images, ignore_errors=True)


def _complete(mended: Path, kept: Path) -> None:
    """Move mended manifests and their linked images into place; delete them if nothing was moved."""
    if kept.is_dir():
        for path in sorted(mended.rglob("images_of_*")):
            if path.is_dir():  # and not moved with a folder around it
                path.rename(kept / path.relative_to(mended))
        for path in mended.rglob(FILE_NAME):
            path.replace(kept / path.relative_to(mended))
    shutil.rmtree(mended, ignore_errors=True)
