"""Base class of the on-disk formats: find the layout, read the names, check the counts, build a manifest."""

from __future__ import annotations

import inspect
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.compute as pc

from diffreid_lightning.datasets.layout_advice import recognized, suggestion
from diffreid_lightning.datasets.skipped_files import left_out_images, remedy_for, worded_left_out
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

_ENCLOSING_FOLDERS = 3  # archives often unpack to name/name/..., never deeper than this


@dataclass(frozen=True)
class Counts:
    """Numbers of identities, images and cameras in a split.

    Args:
        ids: distinct (source, partition, pid), distractors' pid included, as publications count them.
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
    """The rows of a manifest while a format's files are read.

    ``extra`` holds further columns, one value for each row. ``junk`` counts images the dataset itself calls junk; they
    are left out of the rows. ``notes`` says what else was left out, and what deserves a look.
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
        """Append one image; the partition follows from the split (train and val people, or test people)."""
        self.file_name.append(file_name)
        self.partition.append("train" if split in ("train", "val") else "test")
        self.pid.append(pid)
        self.camid.append(camid)
        self.split.append(split)
        self.role.append(role)


class PersonDataset(ABC):
    """A labeled person dataset as it lies on the disk: ``manifest()`` is the way out.

    A subclass names its format, tells its layout from others and reads the rows; the base finds the layout (in a
    folder or a .zip, with up to three enclosing folders), words the errors, and compares the counts with the published
    ones.

    Args:
        root: the dataset's folder, a .zip of it, or a folder inside a .zip.
        strict: make a difference from the published counts an error instead of a warning.
    """

    source: str
    """The manifest's ``source`` for this format."""
    layout: ClassVar[str]
    """What lies under the root, in one line, for messages."""
    pids_restart: ClassVar[bool] = False
    """Whether the test people are numbered anew, so that one number in train and test means two people."""

    def __init__(self, root: str | os.PathLike[str], *, strict: bool = False) -> None:
        self.root = Path(root)
        self.strict = strict
        self._scanned: tuple[Manifest, int] | None = None
        self._notes: tuple[str, ...] = ()
        self._compared = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    @classmethod
    @abstractmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether the folders of this format lie directly under ``images``."""

    @classmethod
    def recognizes(cls, images: ImageRoot) -> bool:
        """Tell whether ``images`` is of this format and no other: the folders, and where needed the file names."""
        return cls.has_layout(images)

    def _place(self, images: ImageRoot) -> ImageRoot:
        """Return the folder at or below ``images`` that has the layout.

        Raises:
            UserError: none has it; the message says which other format it looks like.
        """
        for place in descend(images):
            if self.has_layout(place):
                return place
        raise wrong_layout(self, images)

    @abstractmethod
    def _rows(self, images: ImageRoot) -> Rows:
        """Read the rows from the folder or archive in which ``has_layout`` is true."""

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the class path and arguments that make this dataset, as a configuration has them.

        Args:
            changes: arguments to have otherwise.

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
        """Return an argument of the constructor as it was given."""
        value = getattr(self, name)
        return str(value) if isinstance(value, Path) else value

    @property
    def published(self) -> Mapping[str, Counts]:
        """The published counts by split; empty where there are none."""
        return {}

    @property
    def description(self) -> str:
        """The format and the choices that make its numbers comparable, in one line."""
        return type(self).__name__

    def scan(self) -> tuple[Manifest, int]:
        """Return the manifest and the number of junk images, without comparing counts; files are listed once.

        Raises:
            UserError: the root is missing, empty or of another layout, or a file name cannot be read.
        """
        if self._scanned is None:
            self._scanned = self._read()
        return self._scanned

    def manifest(self) -> Manifest:
        """Return the dataset's manifest; warn once of what was left out and of counts other than the published ones.

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

    @property
    def junk(self) -> int:
        """Return the number of images that the dataset calls junk; they are not in the manifest."""
        return self.scan()[1]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on what the manifest leaves out besides junk, and on what to look at."""
        self.scan()
        return self._notes

    def differences(self) -> dict[str, tuple[Counts, Counts | None]]:
        """Return (published, ours) for each split that is not as published; ours is None where the split is missing."""
        if not self.published:
            return {}
        ours = count_splits(self.scan()[0])
        return {
            split: (expected, ours.get(split))
            for split, expected in self.published.items()
            if ours.get(split) != expected
        }

    def _read(self) -> tuple[Manifest, int]:
        """Read rows and junk from the disk."""
        images = self._place(ImageRoot(self.root))
        rows = self._rows(images)
        left_out = left_out_images(images, images.names())
        if not rows.file_name:
            raise UserError(
                f"{self!r} holds no images",
                looked_for=self.layout,
                found=worded_left_out(left_out) or "its folders, but no image in them",
                remedy=remedy_for(left_out) or "unpack or copy the images again",
            )
        if left_out:
            rows.notes.append(f"{worded_left_out(left_out)} are not read; {remedy_for(left_out)}")
        self._notes = tuple(rows.notes)
        columns = {
            "file_name": rows.file_name,
            "source": self.source,
            "partition": rows.partition,
            "pid": rows.pid,
            "camid": rows.camid,
            "split": rows.split,
            "role": rows.role,
            **rows.extra,
        }
        return Manifest.from_columns(images.path, columns), rows.junk

    def _compare(self) -> None:
        differences = self.differences()
        if not differences:
            return
        found = "; ".join(
            f"{split}: {ours or 'no such split'} (published {expected})"
            for split, (expected, ours) in differences.items()
        )
        if self.strict:
            raise UserError(
                f"{self!r} does not have its published counts",
                found=found,
                remedy="unpack or download the dataset again, or pass strict=False to use what is there",
            )
        warnings.warn(f"{self!r} does not have its published counts. {found}", stacklevel=3)


def count_splits(manifest: Manifest) -> dict[str, Counts]:
    """Count ids, images and cameras of each split that occurs in a manifest."""
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


def descend(images: ImageRoot) -> list[ImageRoot]:
    """Return the root and the folders below it that one may mean by it: down while a folder holds a single folder."""
    chain = [images]
    while len(chain) <= _ENCLOSING_FOLDERS:
        inner = chain[-1].folders()
        if len(inner) != 1:
            break
        chain.append(chain[-1].below(inner[0]))
    return chain


def wrong_layout(dataset: PersonDataset, images: ImageRoot) -> UserError:
    """Word the error for a folder that is not of the dataset's format."""
    here = descend(images)[-1]
    other = recognized(images)
    remedy = suggestion(images, generic="give the folder that holds these, or a .zip of it")
    if other is not None and type(other) is not type(dataset):
        name = type(other).__name__
        try:
            other.scan()
            remedy = f"this looks like {name}; use {name}"
        except UserError as error:  # in that format's form, but not fit for it: its own remedy is the one that works
            remedy = error.remedy or remedy
    return UserError(
        f"{images.path} is no {type(dataset).__name__}",
        looked_for=dataset.layout,
        found=f"{here.path} holds {shorten(here.folders()) or 'no folders'}",
        remedy=remedy,
    )


def unreadable_names(dataset: PersonDataset, place: str, names: list[str], remedy: str) -> UserError:
    """Word the error for images whose names do not say person and camera."""
    return UserError(
        f"{len(names)} image names in {place} cannot be read as {type(dataset).__name__}",
        looked_for=dataset.layout,
        found=shorten(names, 5),
        remedy=remedy,
    )
