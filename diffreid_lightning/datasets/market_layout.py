"""Market-1501's three folders; person and camera are read from the file name alone."""

from __future__ import annotations

import re
from typing import ClassVar

from diffreid_lightning.datasets import layout_advice
from diffreid_lightning.datasets.base import PersonDataset, Rows, unreadable_names_error, wrong_layout_error
from diffreid_lightning.datasets.skipped_files import no_images_error
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
EXPORT_NOTE = "export.json"
"""Written beside the folders by an export. Exported generated images have no query and gallery, so with this file a
folder may be empty."""
_PROBE = 50  # file names per folder that are checked to detect the format


class MarketLayout(PersonDataset):
    """Base of the formats with ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    Images of person -1 are junk: dropped and counted.

    Args:
        root: the folder that holds the three folders, or a .zip of it.
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    pattern: ClassVar[re.Pattern[str]]
    """Matched at the start of the file name; named groups ``pid`` and ``camid``, any number of digits."""
    zero_is_distractor: ClassVar[bool] = False
    """Whether images of person 0 are distractors (Market-1501); elsewhere 0 is an ordinary person."""

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if the three folders exist."""
        return set(FOLDERS.values()) <= set(images.folders())

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Return true if the three folders exist and most file names in them match this format."""
        if not cls.has_layout(images):
            return False
        probe = [name for folder in FOLDERS.values() for name in images.peek(folder, _PROBE)]
        # Most, not all: the reader reports stray files by name.
        fitting = sum(cls.pattern.match(name.rpartition("/")[2]) is not None for name in probe)
        return 2 * fitting > len(probe)

    def _rows(self, images: ImageRoot) -> Rows:
        rows = Rows()
        for split, folder in FOLDERS.items():
            before = len(rows.file_name)
            self._read_folder(rows, images, folder, split)
            if len(rows.file_name) == before and not images.exists(EXPORT_NOTE):
                raise no_images_error(f"The folder {images.path / folder} holds no images", images, folder)
        return rows

    def _read_folder(self, rows: Rows, images: ImageRoot, folder: str, split: str) -> None:
        match = self.pattern.match
        unreadable, misplaced = [], []
        seen: set[str] = set()
        copies = 0
        for name in images.images(folder):
            found = match(name, name.rfind("/") + 1)
            if found is None:
                unreadable.append(name)
                continue
            pid = int(found["pid"])
            if pid == -1:
                rows.junk += 1
                continue
            base = name.rpartition("/")[2]
            copies += base in seen
            seen.add(base)
            distractor = self.zero_is_distractor and pid == 0
            if distractor and split != "gallery":
                misplaced.append(name)
            rows.add(name, split, pid, int(found["camid"]), "distractor" if distractor else "identity")
        if copies:
            rows.notes.append(f"{copies:,} file names are in {folder} twice; does it contain a copy of itself?")
        if unreadable:
            raise self._unreadable(images, folder, unreadable)
        if misplaced:
            raise UserError(
                f"Person 0 occurs in {images.path / folder}; in {type(self).__name__} it means a distractor",
                found=shorten(misplaced, 5),
                remedy=layout_advice.suggest(images, layout_advice.TABLE),
            )

    def _unreadable(self, images: ImageRoot, folder: str, names: list[str]) -> UserError:
        other = layout_advice.recognize(images)
        if other is not None and type(other) is not type(self):
            return wrong_layout_error(self, images)
        remedy = layout_advice.suggest(images, "rename these files like the others, or move them out of the dataset")
        return unreadable_names_error(self, str(images.path / folder), names, remedy)
