"""MSMT17 (Wei et al., CVPR 2018) in its authors' layout: a folder per person, and lists."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from diffreid_lightning.datasets.base import Counts, PersonDataset, Rows, unreadable_names_error
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot

_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
_NAME = re.compile(r"\d+_\d+_(?P<camid>\d+)_")


class MSMT17(PersonDataset):
    """MSMT17 V1 (``train``, ``test``) or V2 (``mask_train_v2``, ``mask_test_v2``: faces masked), 15 cameras.

    Train and test identities are each numbered from 0; 0 is an ordinary person. The authors' ``list_val.txt`` holds
    additional images of the *train* identities. They are part of train or skipped, never a ``val`` split. Papers use
    either; ``description`` names the choice.

    Args:
        root: the folder that holds the image folders and the four lists, or a .zip of it.
        train_with_val_list: train is ``list_train`` + ``list_val`` (32,621 images, the published count), else
            ``list_train`` alone (30,248).
        source: the manifest's source; None takes the format's. Set it for your own data in this layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source = "msmt17"
    layout = (
        "train, test (V1) or mask_train_v2, mask_test_v2 (V2), and list_train, list_val, list_query, list_gallery.txt"
    )
    pids_restart = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        train_with_val_list: bool = True,
        source: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(root, source=source, strict=strict)
        self.train_with_val_list = train_with_val_list

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if V1's or V2's folders and the list of train exist."""
        return _version(images) is not None and images.exists("list_train.txt")

    @property
    def version(self) -> str:
        """Return "V1" or "V2", by the folders' names."""
        folder = str(self.scan()[0].table["file_name"][0]).split("/", 1)[0]
        return "V2" if folder.lower() == _FOLDERS["V2"][0] else "V1"

    @property
    def published_counts(self) -> Mapping[str, Counts]:
        """Return the counts, equal in both versions; train depends on the val list."""
        train = 32621 if self.train_with_val_list else 30248
        return {"train": Counts(1041, train, 15), "query": Counts(3060, 11659, 15), "gallery": Counts(3060, 82161, 15)}

    @property
    def description(self) -> str:
        """Return the version, and whether train includes the val list."""
        return f"MSMT17 {self.version}, train = list_train" + (" + list_val" if self.train_with_val_list else " only")

    def _rows(self, images: ImageRoot) -> Rows:
        missing_lists = [name for name in _LISTS if not images.exists(name)]
        if missing_lists:
            raise UserError(
                f"MSMT17 in {images.path} lacks lists: {', '.join(missing_lists)}",
                looked_for=", ".join(_LISTS),
                remedy="copy the lists from the download beside the folders",
            )
        folders = _version(images)
        assert folders is not None  # has_layout was true
        rows = Rows()
        train_lists = _LISTS[:2] if self.train_with_val_list else _LISTS[:1]
        sources = [(name, "train", folders[0]) for name in train_lists]
        sources += [("list_query.txt", "query", folders[1]), ("list_gallery.txt", "gallery", folders[1])]
        there = set(images.names(folders[0])) | set(images.names(folders[1]))
        for list_name, split, folder in sources:
            self._read_list(rows, images, there, list_name, split, folder)
        return rows

    def _read_list(
        self, rows: Rows, images: ImageRoot, there: set[str], list_name: str, split: str, folder: str
    ) -> None:
        unreadable, missing = [], []
        lines = images.read(list_name).decode("utf-8-sig", "replace").splitlines()
        for line in filter(None, map(str.strip, lines)):
            name, _, label = line.rpartition(" ")
            found = _NAME.match(name, name.rfind("/") + 1)
            if found is None or not label.isdecimal():
                unreadable.append(line)
                continue
            name = f"{folder}/{name.strip()}"
            if name not in there:
                missing.append(name)
            rows.add(name, split, int(label), int(found["camid"]))
        if unreadable:
            place = str(images.path / list_name)
            raise unreadable_names_error(
                self, place, unreadable, "expected lines like 0000/0000_000_01_0303morning_0008_0.jpg 0"
            )
        if missing:
            raise UserError(
                f"{len(missing)} images of {images.path / list_name} do not exist",
                found=shorten(missing, 5),
                remedy=f"unpack {images.path / folder} again",
            )


def _version(images: ImageRoot) -> tuple[str, str] | None:
    """Return the train and test folders as spelled on disk; None if there is neither version."""
    spelled = {name.lower(): name for name in images.folders()}
    pairs = (pair for pair in _FOLDERS.values() if spelled.keys() >= set(pair))
    return next(((spelled[train], spelled[test]) for train, test in pairs), None)
