"""One folder per person: the form in which people's own data usually lies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from diffreid_lightning.data.datasets.base import PersonDataset, Rows, descend, unreadable_names, wrong_layout
from diffreid_lightning.data.images import ImageRoot
from diffreid_lightning.errors import UserError, shorten

SPLIT_FOLDERS = ("train", "val", "query", "gallery")
# Folders of other formats: an incomplete copy of one of those must not pass for people of these names.
_OTHER_FORMATS = {
    "bounding_box_train",
    "bounding_box_test",
    "labeled",
    "detected",
    "mask_train_v2",
    "mask_test_v2",
    "test",
}
_PROBE = 50
_MAX_DIGITS = 18  # more do not fit a 64-bit number


@dataclass(frozen=True)
class _File:
    """One image and the words its place and name say about it."""

    name: str
    split: str
    person: str
    camera: str


class PersonFolder(PersonDataset):
    r"""Images in a folder per person: ``<person>/*.jpg``, below ``train``, ``val``, ``query``, ``gallery`` if there.

    **Splits.** Without any of these four folders everything is train. ``query`` and ``gallery`` come together.

    **People.** Folders named by numbers keep them as pid. If any is not a number, or two spell the same number (``1``,
    ``01``), all names are numbered in sorted order over all splits, and the column ``name`` keeps them.

    **Cameras.** From the file name (``pattern`` with a group ``camera``), from a folder below the person
    (``camera_folders``), or unknown. Camera names that are not all numbers are numbered in sorted order, and the column
    ``camera`` keeps them. Evaluation removes gallery images of the query's person and camera. Where cameras are
    unknown, every image counts as its own camera: nothing is removed, so neighbouring frames of one video count as
    matches and scores are higher than under the cross-camera protocol; do not compare the two. Only images of one
    person with the same file name, as when a query is also in the gallery, are taken for one image and share a camera,
    so a query never finds itself.

    Args:
        root: the folder of people or of splits, or a .zip of it.
        pattern: regular expression searched in the file name (not in its folders). A group ``camera`` gives the
            camera; a group ``pid`` gives the person, and the images may then lie in any folders. Example for flat
            folders: ``(?P<pid>\d+)_c(?P<camera>\d+)``.
        camera_folders: the images lie one level deeper, in ``<person>/<camera>/``.
        source: the manifest's source, which keeps people of different datasets apart.

    Raises:
        UserError: ``pattern`` is no regular expression or has neither group, or it and ``camera_folders`` both give
            the camera.
    """

    source = "person_folder"
    layout = "<person>/*.jpg, or train, query and gallery with such folders of people"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        pattern: str | None = None,
        camera_folders: bool = False,
        source: str = "person_folder",
    ) -> None:
        super().__init__(root)
        self.pattern = _compile(pattern) if pattern is not None else None
        groups = self.pattern.groupindex if self.pattern is not None else {}
        self.pid_in_name, self.camera_in_name = "pid" in groups, "camera" in groups
        if camera_folders and (self.camera_in_name or self.pid_in_name):
            raise UserError(
                "PersonFolder reads folders of cameras or a pattern's groups, not both",
                remedy="drop camera_folders or the pattern",
            )
        self.camera_folders = camera_folders
        self.source = source

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether images lie exactly one folder deep, or two below folders named as splits, and nothing else."""
        folders = images.folders()
        if _OTHER_FORMATS & set(map(str.lower, folders)):
            return False
        splits = [name for name in folders if name in SPLIT_FOLDERS]
        probe = [name for split in splits for name in images.peek(split, _PROBE)] if splits else images.peek("", _PROBE)
        return bool(probe) and all(name.count("/") == (2 if splits else 1) for name in probe)

    @property
    def description(self) -> str:
        """The source and where its cameras come from."""
        if self.camera_folders:
            return f"{self.source}: a folder per person, cameras from folders"
        cameras = "cameras from file names" if self.camera_in_name else "cameras unknown, each image its own"
        return f"{self.source}: a folder per person, {cameras}"

    def _place(self, images: ImageRoot) -> ImageRoot:
        """Return the first of the enclosing folders whose images lie as the arguments say; else the outermost."""
        for place in descend(images):
            has_splits = bool(set(SPLIT_FOLDERS) & set(place.folders()))
            probe = place.peek("", _PROBE)
            if has_splits or (probe and all(self._file(name, False) for name in probe)):
                return place
        return images

    def _rows(self, images: ImageRoot) -> Rows:
        files = self._files(images)
        pids, numbered_people = _numbers(file.person for file in files)
        cameras, numbered_cameras = _numbers(file.camera for file in files)
        rows = Rows()
        for file in files:
            rows.add(file.name, file.split, pids[file.person], cameras[file.camera])
        if numbered_people:
            rows.extra["name"] = [file.person for file in files]
        if numbered_cameras and (self.camera_folders or self.camera_in_name):
            rows.extra["camera"] = [file.camera for file in files]
        return rows

    def _files(self, images: ImageRoot) -> list[_File]:
        names = images.images()
        splits = {name.split("/", 1)[0] for name in names} & set(SPLIT_FOLDERS)
        _check_splits(images, names, splits)
        if not self.pid_in_name and _OTHER_FORMATS & {name.split("/", 1)[0].lower() for name in names}:
            raise wrong_layout(self, images)
        files, unreadable = [], []
        for name in names:
            file = self._file(name, bool(splits))
            if file is None:
                unreadable.append(name)
            else:
                files.append(file)
        if unreadable:
            wanted = self._wanted_path(bool(splits))
            raise unreadable_names(self, str(images.path), unreadable, f"give every image a name of the form {wanted}")
        return files

    def _wanted_path(self, has_splits: bool) -> str:
        folders = "" if self.pid_in_name else "<person>/<camera>/" if self.camera_folders else "<person>/"
        file = f"<file matching {self.pattern.pattern}>" if self.pattern is not None else "<file>"
        hint = "" if self.camera_folders or self.pid_in_name else "; images deeper down need camera_folders=True"
        return ("<split>/" if has_splits else "") + folders + file + hint

    def _file(self, name: str, has_splits: bool) -> _File | None:
        """Read one image's place and name; None when they do not have the expected form."""
        *folders, base = name.split("/")
        split = folders.pop(0) if has_splits else "train"
        found = self.pattern.search(base) if self.pattern is not None else None
        if self.pattern is not None and (found is None or None in found.groupdict().values()):
            return None
        if found is not None and self.pid_in_name:
            person = found["pid"]
        elif len(folders) == (2 if self.camera_folders else 1):
            person = folders[0]
        else:
            return None
        if self.camera_folders:
            camera = folders[1]
        elif found is not None and self.camera_in_name:
            camera = found["camera"]
        else:
            camera = f"{person}/{base}"
        return _File(name, split, person, camera)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"PersonFolder's pattern is no regular expression: {pattern!r}", found=str(error), remedy="correct it"
        ) from error
    if not {"pid", "camera"} & set(compiled.groupindex):
        raise UserError(
            f"PersonFolder's pattern names neither person nor camera: {pattern!r}",
            looked_for="a group (?P<camera>...) or (?P<pid>...)",
            found=", ".join(compiled.groupindex) or "no named group",
            remedy=r"for instance _c(?P<camera>\d+)",
        )
    return compiled


def _numbers(words: Iterable[str]) -> tuple[dict[str, int], bool]:
    """Give each word its number: the one it spells if all do so differently, else its place in sorted order.

    Returns:
        The number of each word, and whether it is a place and not what the word spells.
    """
    distinct = sorted(set(words))
    if all(word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS for word in distinct):
        spelt = {word: int(word) for word in distinct}
        if len(set(spelt.values())) == len(distinct):
            return spelt, False
    return {word: number for number, word in enumerate(distinct)}, True


def _check_splits(images: ImageRoot, names: list[str], splits: set[str]) -> None:
    if not splits:
        return
    strays = [name for name in names if name.split("/", 1)[0] not in splits]
    if strays:
        raise UserError(
            f"Some images in {images.path} are in no split",
            looked_for=", ".join(SPLIT_FOLDERS),
            found=f"{len(strays)}: {shorten(strays, 5)}",
            remedy="move them into a split's folder or out of the dataset",
        )
    if ("query" in splits) != ("gallery" in splits):
        raise UserError(
            f"Query and gallery come together, but {images.path} has only one of them",
            found=", ".join(sorted(splits)),
            remedy="add the other folder; each query is looked for in the gallery",
        )
