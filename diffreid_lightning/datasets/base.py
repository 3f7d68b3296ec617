"""Base class of the on-disk formats: find the layout, read the names, compare the counts, build a manifest."""

from __future__ import annotations

import inspect
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.compute as pc

from diffreid_lightning.datasets import layout_advice
from diffreid_lightning.datasets.name_patterns import number_words
from diffreid_lightning.datasets.skipped_files import (
    describe_unread,
    find_unread_images,
    no_images_error,
    suggest_conversion,
)
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

_ENCLOSING_FOLDERS = 3  # archives often unpack to name/name/..., never deeper than this


@dataclass(frozen=True)
class Counts:
    """Numbers of identities, images and cameras in a split.

    Args:
        ids: distinct (source, partition, pid); the distractors' pid counts, as in publications.
        images: images.
        cameras: distinct camera ids.
    """

    ids: int
    images: int
    cameras: int

    def __str__(self) -> str:
        return f"{self.ids:,} ids, {self.images:,} images, {self.cameras} cameras"


@dataclass
class Rows:
    """Rows of a manifest, collected while a format reads its files.

    ``extra`` holds additional columns, one value per row. ``junk`` counts the images that the dataset labels as junk;
    they get no row. ``notes`` lists other skipped images and anything the user should look at.
    """

    file_name: list[str] = field(default_factory=list)
    partition: list[str] = field(default_factory=list)
    pid: list[int] = field(default_factory=list)
    camid: list[int] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    role: list[str] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    junk: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, file_name: str, split: str, pid: int, camid: int, role: str = "identity") -> None:
        """Append one image; the partition follows from the split: ``train`` for train and val, else ``test``."""
        self.file_name.append(file_name)
        self.partition.append("train" if split in ("train", "val") else "test")
        self.pid.append(pid)
        self.camid.append(camid)
        self.split.append(split)
        self.role.append(role)

    def add_words(self, images: Sequence[tuple[str, str, str, str]], known_cameras: bool) -> None:
        """Append images by file name, split, person and camera, and number the words for the latter two.

        Words that are not numbers are kept in the columns ``name`` and, where cameras are known, ``camera``.
        """
        pids, named_people = number_words(person for _, _, person, _ in images)
        camids, named_cameras = number_words(camera for *_, camera in images)
        for file_name, split, person, camera in images:
            self.add(file_name, split, pids[person], camids[camera])
        if named_people:
            self.extra["name"] = [person for _, _, person, _ in images]
        if named_cameras and known_cameras:
            self.extra["camera"] = [camera for *_, camera in images]

    def to_manifest(self, root: Path, source: str) -> Manifest:
        """Return the rows as a manifest of one source."""
        names = ("file_name", "partition", "pid", "camid", "split", "role")
        return Manifest.from_columns(
            root, {"source": source} | {name: getattr(self, name) for name in names} | self.extra
        )


class PersonDataset(ABC):
    """A labeled person dataset on disk, read by ``manifest()``.

    A subclass detects its layout and reads the rows (``_rows``, or ``_read`` for a whole manifest). The base finds the
    layout in a folder or a .zip, below up to three enclosing folders, and compares the counts with the published ones.

    Args:
        root: the dataset's folder, a .zip of it, or a folder inside a .zip.
        source: the manifest's source; None takes the format's. Set it for your own data in a benchmark's layout.
        strict: raise an error, not a warning, if the counts differ from the published ones.
    """

    source: str
    """The manifest's ``source`` for this format."""
    layout: ClassVar[str]
    """The files and folders below the root, in one line, for messages."""
    pids_restart: bool = False
    """Whether test identities are numbered from the start again, so that a pid in train and test is two people."""

    def __init__(self, root: str | os.PathLike[str], *, source: str | None = None, strict: bool = False) -> None:
        self.root = Path(root)
        if source is not None:
            self.source = source
        self.strict = strict
        self._scanned: tuple[Manifest, int] | None = None
        self._notes: tuple[str, ...] = ()
        self._compared = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    @classmethod
    @abstractmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if the folders of this format are directly below ``images``."""

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Return true if ``images`` has this format and no other, by its folders and, if needed, file names."""
        return cls.has_layout(images)

    def _place(self, images: ImageRoot) -> ImageRoot:
        """Return the folder at or below ``images`` that has the layout.

        Raises:
            UserError: no folder has it; the message names the format that fits.
        """
        for place in descend(images):
            if self.has_layout(place):
                return place
        raise wrong_layout_error(self, images)

    def _rows(self, images: ImageRoot) -> Rows:
        """Read the rows from the folder or archive for which ``has_layout`` is true."""
        raise NotImplementedError

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the class path and arguments of this dataset, in the form of a config.

        Args:
            changes: arguments to replace.

        Raises:
            TypeError: the class has no such argument.
        """
        parameters = inspect.signature(type(self)).parameters
        if not changes.keys() <= parameters.keys():
            raise TypeError(f"{type(self).__name__} has no {changes.keys() - parameters.keys()}")
        values = {name: changes.get(name, self._argument(name)) for name in parameters}
        given = {name: value for name, value in values.items() if value != parameters[name].default}
        return {"class_path": type(self).__name__, "init_args": given}

    def _argument(self, name: str) -> Any:
        """Return a constructor argument in the form in which it was passed."""
        value = getattr(self, name)
        return str(value) if isinstance(value, Path) else value

    @property
    def published_counts(self) -> Mapping[str, Counts]:
        """Return the published counts by split; empty if there are none."""
        return {}

    @property
    def description(self) -> str:
        """Return the format and the options that results depend on, in one line."""
        return type(self).__name__

    def scan(self) -> tuple[Manifest, int]:
        """Return the manifest and the number of junk images; the result is cached.

        Counts are not compared with the published ones, but for those of the whole dataset that a subset is read from.

        Raises:
            UserError: the root is missing, empty or in another layout, or a file name cannot be parsed.
        """
        if self._scanned is None:
            self._scanned = self._read()
        return self._scanned

    def manifest(self) -> Manifest:
        """Return the dataset's manifest; warn once about skipped images and about counts that differ.

        Raises:
            UserError: as ``scan``; with ``strict`` also when the counts differ from the published ones.
        """
        manifest, _ = self.scan()
        if not self._compared:
            for note in self.notes:
                warnings.warn(f"{self!r}: {note}", stacklevel=2)
            self._compare()
            self._compared = True
        return manifest

    def training_manifest(self) -> Manifest:
        """Return the manifest for a training that holds nobody out: ``val`` rows are trained on too."""
        return self.manifest()

    @property
    def junk(self) -> int:
        """Return the number of images that the dataset labels as junk; they are not in the manifest."""
        return self.scan()[1]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on images skipped for other reasons than junk, and on anything to look at."""
        self.scan()
        return self._notes

    def differences(self) -> dict[str, tuple[Counts, Counts | None]]:
        """Return (published, ours) of each split whose counts differ; ours is None if the split is missing."""
        published = self.published_counts
        return compare_counts(published, count_splits(self.scan()[0])) if published else {}

    def _read(self) -> tuple[Manifest, int]:
        """Read the manifest and the number of junk images from disk."""
        images = self._place(ImageRoot(self.root))
        rows = self._rows(images)
        if not rows.file_name:
            raise no_images_error(f"{self!r} holds no images", images, looked_for=self.layout)
        unread = find_unread_images(images, images.names())
        if unread:
            rows.notes.append(f"{describe_unread(unread)} are not read; {suggest_conversion(unread)}")
        self._notes = tuple(rows.notes)
        return rows.to_manifest(images.path, self.source), rows.junk

    def _compare(self) -> None:
        differences = self.differences()
        named = self.source != getattr(type(self), "source", self.source)  # data of somebody's own in this layout
        if not differences or (named and not self.strict):
            return
        found = "; ".join(
            f"{split}: {ours or 'no such split'} (published {expected})"
            for split, (expected, ours) in differences.items()
        )
        if self.strict:
            raise UserError(
                f"{self!r} differs from its published counts",
                found=found,
                remedy="unpack or download the dataset again, or pass strict=False to use it as it is",
            )
        own = f"If this is data of your own, {type(self).__name__} with source: NAME names it in all results."
        warnings.warn(f"{self!r} differs from its published counts. {found}. {own}", stacklevel=3)


def compare_counts(
    published: Mapping[str, Counts], ours: Mapping[str, Counts]
) -> dict[str, tuple[Counts, Counts | None]]:
    """Return (published, ours) of each published split whose counts differ; ours is None if the split is missing."""
    return {split: (counts, ours.get(split)) for split, counts in published.items() if ours.get(split) != counts}


def count_splits(manifest: Manifest) -> dict[str, Counts]:
    """Count ids, images and cameras of each split in a manifest."""
    labels, _ = manifest.identities()
    table = manifest.table.select(["split", "source", "camid"]).append_column("label", [labels])
    grouped = table.group_by("split").aggregate([("label", "count_distinct"), ("label", "count")])
    cameras = (
        table.group_by(["split", "source", "camid"]).aggregate([]).group_by("split").aggregate([([], "count_all")])
    )
    by_split = dict(zip(cameras["split"].to_pylist(), cameras["count_all"].to_pylist(), strict=True))
    return {
        row["split"]: Counts(row["label_count_distinct"], row["label_count"], by_split[row["split"]])
        for row in grouped.take(pc.sort_indices(grouped["split"])).to_pylist()
    }


def images_are_cameras(manifest: Manifest) -> bool:
    """Tell whether each image is its own camera, as where cameras are unknown; a copy in another split may share it."""
    return manifest.table.group_by(["split", "source", "camid"]).aggregate([]).num_rows == len(manifest)


def descend(images: ImageRoot) -> list[ImageRoot]:
    """Return the root and the folders below it, as long as each holds a single folder, at most three deep."""
    chain = [images]
    while len(chain) <= _ENCLOSING_FOLDERS:
        inner = chain[-1].folders()
        if len(inner) != 1:
            break
        chain.append(chain[-1].below(inner[0]))
    return chain


def wrong_layout_error(dataset: PersonDataset, images: ImageRoot) -> UserError:
    """Return the error for a folder that does not have the dataset's format."""
    here = descend(images)[-1]
    other = layout_advice.recognize(images)
    remedy = layout_advice.suggest(images, "give the folder that holds these, or a .zip of it")
    if other is not None and type(other) is not type(dataset):
        name = type(other).__name__
        try:
            other.scan()
            remedy = f"this looks like {name}; use {name}"
        except UserError as error:  # the folders match but the files do not: that format's own remedy applies
            remedy = error.remedy or remedy
    return UserError(
        f"{images.path} is not a {type(dataset).__name__}",
        looked_for=dataset.layout,
        found=f"{here.path} holds {shorten(here.folders()) or 'no folders'}",
        remedy=remedy,
    )


def unreadable_names_error(dataset: PersonDataset, place: str, names: list[str], remedy: str) -> UserError:
    """Return the error for images whose names do not contain person and camera."""
    return UserError(
        f"{len(names)} image names in {place} cannot be read as {type(dataset).__name__}",
        looked_for=dataset.layout,
        found=shorten(names, 5),
        remedy=remedy,
    )
