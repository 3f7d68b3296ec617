"""Folders per person, or any folders whose paths contain person and camera: the usual layout of your own data."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffreid_lightning.datasets import layout_advice
from diffreid_lightning.datasets.base import PersonDataset, Rows, descend, unreadable_names_error
from diffreid_lightning.datasets.folder_names import (
    are_not_people,
    find_mixed_folder,
    find_shared_numbers,
    find_split_folders,
    is_part_name,
)
from diffreid_lightning.datasets.name_patterns import compile_pattern
from diffreid_lightning.datasets.split_entries import SPLITS, Placed, check_pair, entry_exists, place
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot

_JUNK = re.compile(r"0*-1")
_CAMERA = re.compile(r"(?:^|_)c(?:am)?(?P<camera>\d+)")
_PAIR_REMEDY = "add or give the other; each query is searched for in the gallery"
_PROBE = 50


class _File(NamedTuple):
    """One image and the person and camera read from its path."""

    name: str
    split: str
    person: str
    camera: str


class PersonFolder(PersonDataset):
    r"""Images in a folder per person, or in any folders if a pattern reads person and camera from the path.

    **Splits.** ``train``, ``val``, ``query`` and ``gallery`` list the images of each split; others are skipped. Without
    any of them the folders of these names are the splits (in any case; ``test`` beside ``query`` is the gallery), with
    a pattern that has a ``pid`` also ``bounding_box_train``, ``image_train`` and similar; without such folders all
    images are train. ``query`` and ``gallery`` require each other.

    **People.** The folder above the image or its camera, or the pattern's group ``pid``. Numbers stay the pid. If any
    is not a number, or two spell the same number (``1``, ``01``), all names are numbered in sorted order over all
    splits, and the column ``name`` holds them. Person -1 (``-1``, ``00-1``) is junk and skipped.

    **Cameras.** From the pattern's group ``camera``, from a folder below the person (``camera_folders``), or unknown.
    Camera names that are not all numbers are numbered in sorted order, and the column ``camera`` holds them. Evaluation
    removes gallery images of the query's person and camera. With unknown cameras every image is its own camera: nothing
    is removed, so neighboring frames of one video count as matches, and scores are higher than under the cross-camera
    protocol; do not compare the two. Only copies share a camera (same person, file name and bytes, like a query that is
    also in the gallery), so a query never finds itself.

    Args:
        root: the folder of people or of splits, or a .zip of it.
        pattern: regular expression searched in the file name, or in the path below the root if it contains a slash.
            A group ``camera`` gives the camera; a group ``pid`` gives the person, and the images may then lie in any
            folders. Example for flat folders: ``(?P<pid>\d+)_c(?P<camera>\d+)``; for VIPeR's:
            ``(?P<camera>cam_[ab])/(?P<pid>\d+)``.
        train: the images of train: a folder (``image_train``), a glob of folders, people or images (``*/rgb``,
            ``cam_?/0[0-4]*``), ``.`` for everything, a list file with one image per line (path or file name; the
            pattern also sees the rest of the line), or several of these.
        val: likewise, the identities held out for validation.
        query: likewise, the query images.
        gallery: likewise, the gallery images.
        junk: regular expression, searched like ``pattern``, of images to skip.
        camera_folders: the images lie one level deeper, in ``<person>/<camera>/``.
        source: the manifest's source; identities of different sources are distinct.

    Raises:
        UserError: ``pattern`` or ``junk`` is not a regular expression, ``pattern`` has neither group, or it and
            ``camera_folders`` both give the camera.
    """

    source = "person_folder"
    suggests: bool
    """Whether errors suggest options, found by trying them."""
    layout = "<person>/*.jpg, or train, query and gallery with such folders of people"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        pattern: str | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        query: str | list[str] | None = None,
        gallery: str | list[str] | None = None,
        junk: str | None = None,
        camera_folders: bool = False,
        source: str = "person_folder",
    ) -> None:
        super().__init__(root, source=source)
        self.pattern = compile_pattern("pattern", pattern) if pattern is not None else None
        if self.pattern is not None:
            _check_groups(self.pattern)
        self.junk_pattern = compile_pattern("junk", junk) if junk is not None else None
        groups = self.pattern.groupindex if self.pattern is not None else {}
        self.pid_in_name, self.camera_in_name = "pid" in groups, "camera" in groups
        if camera_folders and (self.camera_in_name or self.pid_in_name):
            raise UserError(
                "PersonFolder reads cameras from folders or from a pattern, not both",
                remedy="drop camera_folders or the pattern",
            )
        given = dict(zip(SPLITS, (train, val, query, gallery), strict=True))
        self.entries = {
            split: [entries] if isinstance(entries, str) else list(entries)
            for split, entries in given.items()
            if entries is not None
        }
        self.camera_folders = camera_folders
        self.suggests = True

    def _argument(self, name: str) -> Any:
        if name in SPLITS:
            return self.entries.get(name)
        if name in ("pattern", "junk"):
            compiled = self.pattern if name == "pattern" else self.junk_pattern
            return None if compiled is None else compiled.pattern
        return super()._argument(name)

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if all images lie one folder deep, or two with folders named after splits.

        Folders named like parts of a dataset or cameras are not people.
        """
        folders = images.folders()
        splits = find_split_folders(folders, flat=False)
        if any(is_part_name(name) for name in folders if name not in splits):
            return False
        if splits:
            probe = [name for split in splits for name in images.peek(split, _PROBE)]
        else:
            probe = [] if are_not_people(folders) else images.peek("", _PROBE)
        return bool(probe) and all(name.count("/") == (2 if splits else 1) for name in probe)

    @property
    def description(self) -> str:
        """Return the source, and how people and cameras are read."""
        people = "people from the pattern" if self.pid_in_name else "a folder per person"
        if self.camera_folders:
            return f"{self.source}: {people}, cameras from folders"
        cameras = "cameras from the pattern" if self.camera_in_name else "cameras unknown, each image its own"
        return f"{self.source}: {people}, {cameras}"

    def _place(self, images: ImageRoot) -> ImageRoot:
        """Return the first of the enclosing folders whose images fit the arguments; else the outermost."""
        roots = descend(images)
        if self.entries:
            wanted = [entry for entries in self.entries.values() for entry in entries]
            return next((root for root in roots if all(entry_exists(root, entry) for entry in wanted)), images)
        # Folders of splits first: a pattern matches from any folder above them.
        split = next((root for root in roots if find_split_folders(root.folders(), self.pid_in_name)), None)
        if split is not None:
            return split
        for root in roots:
            probe = root.peek("", _PROBE)
            if probe and all(self._file(Placed(name, "train", name)) for name in probe):
                return root
        return images

    def _rows(self, images: ImageRoot) -> Rows:
        rows = Rows()
        files = self._files(images, rows)
        known_cameras = self.camera_folders or self.camera_in_name
        rows.add_words(files if known_cameras else _separate_cameras(images, files), known_cameras)
        bases = (file.name.rpartition("/")[2] for file in files)
        if self.pattern is None and not self.camera_folders and files and all(map(_CAMERA.search, bases)):
            rows.notes.append(f"the file names seem to hold cameras; read them with pattern: '{_CAMERA.pattern}'")
        return rows

    def _files(self, images: ImageRoot, rows: Rows) -> list[_File]:
        """Read every image's split, person and camera; ``rows`` counts junk and images in no split."""
        names = images.images()
        placed = self._split(images, names)
        files, unreadable = [], []
        for one in placed:
            text = _search_text(self.junk_pattern, one)
            file = self._file(one)
            if self.junk_pattern is not None and self.junk_pattern.search(text):
                rows.junk += 1
            elif file is None:
                unreadable.append(one.name)
            elif _JUNK.fullmatch(file.person):
                rows.junk += 1
            else:
                files.append(file)
        if not self.pid_in_name:
            self._check_people(images, placed, {file.person for file in files}, rows)
        if unreadable:
            raise self._unreadable(images, unreadable)
        others = sorted(set(names) - {one.name for one in placed})
        if others:
            rows.notes.append(f"{len(others):,} images are in none of the given splits: {shorten(others, 3)}")
        return files

    def _split(self, images: ImageRoot, names: list[str]) -> list[Placed]:
        """Assign the images to the given splits, or to those that folders are named after."""
        if self.entries:
            check_pair(images.path, self.entries, _PAIR_REMEDY)
            return place(images, names, self.entries)
        splits = find_split_folders({name.split("/", 1)[0] for name in names if "/" in name}, self.pid_in_name)
        if not splits:
            return [Placed(name, "train", name) for name in names]
        strays = [name for name in names if name.split("/", 1)[0] not in splits]
        if strays:
            raise self._in_no_split(images, strays)
        empty = set(find_split_folders(images.folders(), self.pid_in_name)) - set(splits)
        if empty:
            raise UserError(
                f"A split of {images.path} holds no images: {shorten(sorted(empty))}",
                remedy="unpack or copy the images again, or remove the empty folder",
            )
        check_pair(images.path, splits.values(), _PAIR_REMEDY)
        return [Placed(name, splits[name.split("/", 1)[0]], name.split("/", 1)[1]) for name in names]

    def _file(self, placed: Placed) -> _File | None:
        """Read person and camera of one image; None if its path does not have the expected form."""
        *folders, _ = placed.inner.split("/")
        depth = 2 if self.camera_folders else 1
        if placed.person_above and len(folders) < depth:
            folders = [name for name in placed.name.split("/")[:-1][-depth:] if not is_part_name(name)]
        found = self.pattern.search(_search_text(self.pattern, placed)) if self.pattern is not None else None
        if self.pattern is not None and (found is None or not all(found.groupdict().values())):
            return None
        if found is not None and self.pid_in_name:
            person = found["pid"]
            # A pattern for digits matches person 1 in -1 and in MARS's 00-1, which are junk.
            before = re.search(r"(?:^|[/_])(0*-)$", found.string[: found.start("pid")])
            person = before[1] + person if before else person
        elif len(folders) == depth:
            person = folders[0]
        else:
            return None
        if self.camera_folders:
            camera = folders[1]
        elif found is not None and self.camera_in_name:
            camera = found["camera"]
        else:
            camera = f"{person}/{placed.name.rpartition('/')[2]}"
        return _File(placed.name, placed.split, person, camera)

    def _check_people(self, images: ImageRoot, placed: Sequence[Placed], people: set[str], rows: Rows) -> None:
        """Refuse folders that are not people: named like splits or cameras, or with files of several people.

        If files start with numbers that may be people or frames, add a note to ``rows``.
        """
        tops = {one.name.split("/", 1)[0] for one in placed if "/" in one.name}
        found = shorten(sorted(name for name in tops if is_part_name(name)))
        if found and not self.entries and not find_split_folders(tops, flat=False):
            self._raise_not_people(images, f"folders {found}")
        if are_not_people(people):
            self._raise_not_people(images, f"folders {shorten(sorted(people))}")
        mixed = find_mixed_folder(one.name for one in placed)
        if mixed is not None:
            folder, pids = mixed
            self._raise_not_people(images, f"names of {len(pids)} people in {folder or 'it'}: {shorten(pids, 5)}")
        shared = find_shared_numbers(one.name for one in placed)
        if shared is not None:
            numbers, repeated = shared
            found = f"the same numbers at the start of the file names in several folders: {shorten(numbers, 5)}"
            if repeated and not all(map(str.isdecimal, people)):
                self._raise_not_people(images, found)
            rows.notes.append(
                f"{found}; if these are the people and the folders are places or cameras, give "
                r"pattern: '^(?P<pid>\d+)'"
            )

    def _raise_not_people(self, images: ImageRoot, found: str) -> None:
        override = r"if these are people, give pattern: '(?P<pid>[^/]+)/[^/]+$'"
        suggested = self._suggestion(images, override)
        raise UserError(
            f"{images.path} is not a PersonFolder: its folders are not people",
            looked_for=self.layout,
            found=found,
            remedy=suggested if suggested == override else f"{suggested}\n      {override}",
        )

    def _suggestion(self, images: ImageRoot, generic: str) -> str:
        return layout_advice.suggest(images, generic) if self.suggests else generic

    def _in_no_split(self, images: ImageRoot, strays: list[str]) -> UserError:
        return UserError(
            f"Some images in {images.path} are in no split",
            looked_for=", ".join(SPLITS),
            found=f"{len(strays)}: {shorten(strays, 5)}",
            remedy=self._suggestion(images, "move them into a split's folder or out of the dataset"),
        )

    def _unreadable(self, images: ImageRoot, names: list[str]) -> UserError:
        wanted = f"give every image a name of the form {self._wanted_path()}"
        if self.pattern is not None:
            escaped = "|".join(re.escape(name.rpartition("/")[2]) for name in names[:3])
            more = f"; or leave them out with junk: '^({escaped})$'" if len(names) <= 3 else ""
            return unreadable_names_error(self, str(images.path), names, wanted + more)
        return unreadable_names_error(self, str(images.path), names, self._suggestion(images, wanted))

    def _wanted_path(self) -> str:
        has_splits = bool(self.entries) or bool(find_split_folders(ImageRoot(self.root).folders(), self.pid_in_name))
        folders = "" if self.pid_in_name else "<person>/<camera>/" if self.camera_folders else "<person>/"
        file = f"<file matching {self.pattern.pattern}>" if self.pattern is not None else "<file>"
        hint = "" if self.camera_folders or self.pid_in_name else "; images deeper down need camera_folders=True"
        return ("<split>/" if has_splits else "") + folders + file + hint


def _separate_cameras(images: ImageRoot, files: Sequence[_File]) -> list[_File]:
    """Give different images of one person and file name a camera each; folders often number their images from 1."""
    shared = Counter(file.camera for file in files)
    sizes = {file.name: images.size(file.name) for file in files if shared[file.camera] > 1}
    alike = Counter((file.camera, sizes.get(file.name)) for file in files)  # only these have to be read
    cameras: dict[str, dict[tuple[int, bytes], str]] = {}
    separated = []
    for file in files:
        camera = file.camera
        if shared[camera] > 1:
            of_content = cameras.setdefault(camera, {})
            size = sizes[file.name]
            content = hashlib.sha256(images.read(file.name)).digest() if alike[camera, size] > 1 else b""
            camera = of_content.setdefault((size, content), f"{camera}/{file.name}" if of_content else camera)
        separated.append(file._replace(camera=camera))
    return separated


def _search_text(pattern: re.Pattern[str] | None, placed: Placed) -> str:
    """Return the text to search a pattern in: path or file name, and the rest of a list's line."""
    name = placed.name if pattern is not None and "/" in pattern.pattern else placed.name.rpartition("/")[2]
    return f"{name} {placed.rest}" if placed.rest else name


def _check_groups(pattern: re.Pattern[str]) -> None:
    if not {"pid", "camera"} & set(pattern.groupindex):
        raise UserError(
            f"PersonFolder's pattern has no group for person or camera: {pattern.pattern!r}",
            looked_for="a group (?P<camera>...) or (?P<pid>...)",
            found=", ".join(pattern.groupindex) or "no named group",
            remedy=r"for instance _c(?P<camera>\d+)",
        )
