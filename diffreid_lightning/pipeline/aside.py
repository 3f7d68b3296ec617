"""What an earlier configuration made: kept, out of the way.

All that one run of a chain puts aside lies in ``<root>/previous/<number>``, stages beside each other as they were, so
their manifests still find images that were put aside with them, and those outside the chain's folder.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest import FILE_NAME, Manifest

_PREVIOUS = "previous"


class Aside:
    """Where a run of a chain puts what it replaces.

    Args:
        root: the chain's folder.
        note: a file for the number while the run is under way: one that is stopped goes on with it.
    """

    def __init__(self, root: Path, note: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 (as manifests write theirs, without '..')
        self._note = note

    @property
    def folder(self) -> Path:
        """The folder of this run; not there before something is put into it."""
        previous = self.root / _PREVIOUS
        with suppress(OSError):
            return previous / self._note.read_text(encoding="utf-8")
        numbers = [int(path.name) for path in previous.glob("*") if path.name.isdecimal()]
        return previous / f"{1 + max(numbers, default=0):03d}"

    def put(self, name: str) -> None:
        """Move what a stage made."""
        folder, place = self.folder, self.root / name
        outside = []
        for file in place.rglob(FILE_NAME):
            with suppress(UserError):  # a damaged one is moved as it is
                manifest = Manifest.read(file)
                if self.root not in manifest.root.parents:
                    outside.append((file.relative_to(place), manifest))
        folder.mkdir(parents=True, exist_ok=True)
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(folder.name, encoding="utf-8")
        place.rename(folder / name)
        for file, manifest in outside:  # it noted their place as seen from its own
            manifest.write(folder / name / file)

    def close(self) -> None:
        """Say that the run has come to its end; the next one gets a folder of its own."""
        self._note.unlink(missing_ok=True)
