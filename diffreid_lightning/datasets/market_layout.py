"""The three folders that Market-1501 made common: person and camera are read from the file name alone."""

from __future__ import annotations

import os
import re
from typing import ClassVar

from diffreid_lightning.datasets.base import PersonDataset, Rows, unreadable_names, wrong_layout
from diffreid_lightning.datasets.layout_advice import recognized, suggestion
from diffreid_lightning.datasets.skipped_files import left_out_images, remedy_for, worded_left_out
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
EXPORT_NOTE = "export.json"
"""What an export of this package leaves beside the folders. Generated people have no query and gallery: with it, a
folder may be empty."""
_PROBE = 50  # so many names of a folder tell its naming


class MarketLayout(PersonDataset):
    """Base of the formats with ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    Person number -1 is junk in this layout: such images are dropped and counted.

    Args:
        root: the folder that holds the three folders, or a .zip of it.
        source: the manifest's source, where data of one's own must not be taken for the benchmark's people.
        strict: make a difference from the published counts an error instead of a warning.
    """

    pattern: ClassVar[re.Pattern[str]]
    """Matched at the start of the file name; named groups ``pid`` and ``camid``, any number of digits."""
    zero_is_distractor: ClassVar[bool] = False
    """Whether person number 0 means nobody in particular (Market-1501) or a person (everywhere else)."""

    def __init__(self, root: str | os.PathLike[str], *, source: str | None = None, strict: bool = False) -> None:
        super().__init__(root, strict=strict)
        self.source = type(self).source if source is None else source

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether the three folders are there."""
        return set(FOLDERS.values()) <= set(images.folders())

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Tell whether the three folders are there and the names in them are this format's."""
        if not cls.has_layout(images):
            return False
        probe = [name for folder in FOLDERS.values() for name in images.peek(folder, _PROBE)]
        # Most of them, not all: a stray file is for the reader to name, not a reason to know nothing.
        fitting = sum(cls.pattern.match(name.rpartition("/")[2]) is not None for name in probe)
        return 2 * fitting > len(probe)

    def _rows(self, images: ImageRoot) -> Rows:
        rows = Rows()
        for split, folder in FOLDERS.items():
            before = len(rows.file_name)
            self._read_folder(rows, images, folder, split)
            if len(rows.file_name) == before and not images.exists(EXPORT_NOTE):
                left_out = left_out_images(images, images.names(folder))
                raise UserError(
                    f"The folder {images.path / folder} holds no images",
                    found=worded_left_out(left_out) or shorten(images.names(folder)) or "nothing",
                    remedy=remedy_for(left_out) or "unpack or copy the images again",
                )
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
            rows.notes.append(f"{copies:,} file names are in {folder} twice, in a copy of it within it?")
        if unreadable:
            raise self._unreadable(images, folder, unreadable)
        if misplaced:
            raise UserError(
                f"Person 0 occurs in {images.path / folder}; in {type(self).__name__} it means a distractor",
                found=shorten(misplaced, 5),
                remedy=suggestion(images),
            )

    def _unreadable(self, images: ImageRoot, folder: str, names: list[str]) -> UserError:
        other = recognized(images)
        if other is not None and type(other) is not type(self):
            return wrong_layout(self, images)
        remedy = suggestion(images, generic="rename these files as the others are, or move them out of the dataset")
        return unreadable_names(self, str(images.path / folder), names, remedy)
