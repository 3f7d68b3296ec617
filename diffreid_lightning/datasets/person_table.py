"""A table of images with people and cameras: a CSV file, or a Parquet file that is not a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from diffreid_lightning.datasets.base import PersonDataset, Rows
from diffreid_lightning.datasets.skipped_files import find_unread_images
from diffreid_lightning.datasets.split_entries import SPLITS, check_pair
from diffreid_lightning.datasets.table_columns import Columns, read_table
from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.image_root import ImageRoot, is_image_name
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import user_path

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_HEADINGS = {
    "path": "path filename file filepath imagepath imgpath image img imagename imgname name",
    "pid": "pid personid identity person vehicleid vid identityid label id",
    "camid": "camid cameraid camera cam camname",
    "split": "split subset partition set phase mode",
}
"""Headings of each column, in lower case without spaces and punctuation; earlier ones are preferred."""
_SPLIT_WORDS = {"training": "train", "valid": "val", "validation": "val", "probe": "query", "queries": "query"}
# Headings, in the same spelling, of columns that hold the split in another form.
_OF_SPLITS = re.compile(
    r"(is|in|for)?(train(ing)?|val(id(ation)?)?|test(ing)?|eval|query|queries|probe|gallery)(set)?"
    r"|(k|cv)?folds?(id|no|index)?|usage|(data|train|test|traintest)?splits?(name|id|no)?|traintest|trainortest"
)
_WHOLE = re.compile(r"(-?\d+)\.0+")


class PersonTable(PersonDataset):
    r"""Images listed in a table: a CSV file (comma, semicolon or tab; UTF-8 or UTF-16) or a Parquet file.

    The first line holds the headings; common spellings are recognized (``path``, ``file_name``, ``image``; ``pid``,
    ``person_id``, ``identity``; ``camid``, ``camera``; ``split``). Paths are absolute or relative to the table's
    folder, with ``/`` or ``\``. Without cameras every image is its own camera; without splits all images are train.
    People and cameras that are not all numbers are numbered in sorted order; ``1.0`` is 1, and person -1 is junk. Equal
    rows count once. Unused columns are listed in a note.

    Args:
        root: the file, which may be in a .zip (``data.zip/labels.csv``).
        path: heading of the images' paths; None takes a common one, here and below.
        pid: heading of the people.
        camid: heading of the cameras.
        split: heading of the splits: train, val, query or gallery; ``test`` is the gallery if there is a query.
        source: the manifest's source; identities of different sources are distinct.
    """

    source = "person_table"
    layout: ClassVar[str] = "a .csv, .tsv or .parquet file with columns path, pid and, if known, camid and split"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        path: str | None = None,
        pid: str | None = None,
        camid: str | None = None,
        split: str | None = None,
        source: str = "person_table",
    ) -> None:
        super().__init__(user_path(root), source=source)
        self.path, self.pid, self.camid, self.split = path, pid, camid, split

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return false: a table is given by its path and never detected in a folder."""
        return False

    @property
    def description(self) -> str:
        """Return the source and the file's name."""
        return f"{self.source}: {self.root.name}"

    def _read(self) -> tuple[Manifest, int]:
        columns = read_table(self.root)
        picked = {kind: self._pick(kind, columns) for kind in _HEADINGS}
        if not columns[picked["path"] or ""]:
            raise UserError(f"The table {self.root} holds no rows", remedy="write one line per image")
        folder = ImageRoot(self.root.parent)
        paths = self._values(columns, picked["path"])
        place, names = _relative(folder, paths)
        images = folder if place == folder.path else ImageRoot(place)
        _refuse_missing(self.root, images, names, paths)
        self._refuse_other_splits(columns, picked)
        rows = self._rows_of(columns, picked, names)
        unused = [heading for heading in columns if heading not in picked.values()]
        if unused:
            rows.notes.append(f"unused columns of the table: {shorten(unused, 8)}")
        self._notes = tuple(rows.notes)
        if not rows.file_name:
            raise UserError(f"The table {self.root} holds junk only", remedy="give people other numbers than -1")
        return rows.to_manifest(place, self.source), rows.junk

    def _rows_of(self, columns: Columns, picked: dict[str, str | None], names: list[str]) -> Rows:
        people = _numbers_as_words(self._values(columns, picked["pid"]))
        cameras = [f"{one}/{name}" for one, name in zip(people, names, strict=True)]
        known_cameras = picked["camid"] is not None and any(columns[picked["camid"]])
        if known_cameras:
            cameras = _numbers_as_words(self._values(columns, picked["camid"]))
        splits = self._splits(columns, picked["split"], len(names))
        entries = list(dict.fromkeys(zip(names, splits, people, cameras, strict=True)))
        rows = Rows()
        if len(entries) < len(names):
            rows.notes.append(f"{len(names) - len(entries):,} rows occur twice; each counts once")
        self._refuse_contradictions(entries)
        self._refuse_two_spellings(people, "people")
        if known_cameras:
            self._refuse_two_spellings(cameras, "cameras")
        kept = [entry for entry in entries if entry[2] != "-1"]
        rows.junk = len(entries) - len(kept)
        rows.add_words(kept, known_cameras)
        return rows

    def _pick(self, kind: str, columns: Columns) -> str | None:
        """Return the heading of a kind of column; None if an optional one is missing."""
        asked = getattr(self, kind)
        if asked is not None:
            if asked in columns:
                return str(asked)
            guess = nearest(asked, columns)
            raise UserError(
                f"The table {self.root} has no column {asked!r}",
                found=shorten(columns, 12),
                remedy=f"did you mean --{kind} {guess}?" if guess else f"give one of these as --{kind}",
            )
        plain = {_plain(heading): heading for heading in reversed(list(columns))}
        found = next((plain[word] for word in _HEADINGS[kind].split() if word in plain), None)
        if found is None and kind in ("path", "pid"):
            raise UserError(
                f"The table {self.root} has no column {kind!r}",
                looked_for=f"a first line with one of the headings {', '.join(_HEADINGS[kind].split()[:4])}",
                found=shorten(columns, 12),
                remedy=f"rename the column to {kind}, or give its heading: --format PersonTable --{kind} HEADING",
            )
        return found

    def _values(self, columns: Columns, heading: str | None) -> list[str]:
        values = columns[heading or ""]
        empty = [row for row, value in enumerate(values, 2) if value.lower() in ("", "nan", "none", "null")]
        if empty:
            raise UserError(
                f"{len(empty)} rows of {self.root} have no {heading}",
                found=f"rows {shorten(map(str, empty), 5)}; the headings are row 1, empty lines are not counted",
                remedy="fill them in, or remove these rows",
            )
        return values

    def _splits(self, columns: Columns, heading: str | None, rows: int) -> list[str]:
        if heading is None:
            return ["train"] * rows
        words = [_SPLIT_WORDS.get(word.lower(), word.lower()) for word in self._values(columns, heading)]
        if "query" in words and "gallery" not in words:
            words = ["gallery" if word in ("test", "testing") else word for word in words]
        unknown = sorted(set(words) - set(SPLITS))
        if unknown:
            raise UserError(
                f"The column {heading!r} of {self.root} holds unknown splits",
                looked_for=", ".join(SPLITS),
                found=shorten(unknown),
                remedy="write train, val, query (images to search for) or gallery (images to search in)",
            )
        remedy = f"write the other in the column {heading!r}, for images of the same people from other cameras"
        check_pair(self.root, words, remedy)
        return words

    def _refuse_other_splits(self, columns: Columns, picked: dict[str, str | None]) -> None:
        """Refuse a column that seems to hold splits and would be ignored, unless the column was given."""
        of_splits = [
            heading for heading in columns if heading not in picked.values() and _OF_SPLITS.fullmatch(_plain(heading))
        ]
        words = {word.lower() for word in columns[picked["split"]]} if picked["split"] is not None else set()
        if not of_splits or self.split is not None or words & {"query", "queries", "probe"}:
            return
        raise UserError(
            f"Columns of {self.root} seem to hold splits in an unknown form: {shorten(of_splits)}",
            looked_for="one column 'split' with train, val, query or gallery for each image",
            found=f"{of_splits[0]} of the first rows: {shorten(columns[of_splits[0]], 3)}",
            remedy="replace them by a column 'split'; or remove them, if every image is train",
        )

    def _refuse_two_spellings(self, words: Sequence[str], what: str) -> None:
        """Refuse one number in two spellings, like 1 and 0001."""
        spelled: dict[int, str] = {}
        for word in dict.fromkeys(words):
            if word.isascii() and word.isdigit() and spelled.setdefault(int(word), word) != word:
                raise UserError(
                    f"The table {self.root} spells one number in two ways, which would count as two {what}",
                    found=f"{spelled[int(word)]} and {word}",
                    remedy=f"use one spelling; if they are two {what}, add a letter to one of them",
                )

    def _refuse_contradictions(self, entries: Sequence[tuple[str, ...]]) -> None:
        seen: set[str] = set()
        twice = [entry[0] for entry in entries if entry[0] in seen or seen.add(entry[0])]  # type: ignore[func-returns-value]
        if twice:
            raise UserError(
                f"{len(twice)} images of {self.root} are listed with different people, cameras or splits",
                found=shorten(twice, 3),
                remedy="keep one row per image",
            )


def _plain(heading: str) -> str:
    return re.sub(r"[^a-z0-9]", "", heading.lower())


def _numbers_as_words(words: list[str]) -> list[str]:
    """Drop the ``.0`` that spreadsheets append to whole numbers, if all words are numbers."""
    cut = [found[1] if (found := _WHOLE.fullmatch(word)) else word for word in words]
    return cut if all(word.removeprefix("-").isdigit() for word in cut) else words


def _relative(folder: ImageRoot, paths: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the folder that holds all images (the table's folder if possible), and their names below it."""
    base = str(folder.path)
    full = [os.path.normpath(os.path.join(base, path.replace("\\", "/"))) for path in paths]  # noqa: PTH118 (hot)
    inside = all(path.startswith(base + os.sep) for path in full)
    place = base if inside or folder.in_archive else os.path.commonpath([os.path.dirname(path) for path in full])  # noqa: PTH120
    return Path(place), [os.path.relpath(path, place).replace(os.sep, "/") for path in full]


def _refuse_missing(file: Path, images: ImageRoot, names: Sequence[str], paths: Sequence[str]) -> None:
    missing = [
        path
        for name, path in zip(names, paths, strict=True)
        if re.match(r"\.\./|[A-Za-z]:", name) or not images.exists(name)
    ]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} images that {file} lists do not exist",
            looked_for=f"paths relative to {file.parent}, or absolute ones",
            found=shorten(missing, 3),
            remedy="correct the paths, restore the images, or remove these rows",
        )
    others = [name for name in names if not is_image_name(name)]
    readable = [name for files, inside in find_unread_images(images, others).values() if inside for name in files]
    unreadable = sorted(set(others) - set(readable))
    if unreadable:
        raise UserError(
            f"{len(unreadable)} files that {file} lists cannot be read as images",
            found=shorten(unreadable, 3),
            remedy="convert them to .jpg or .png, or remove these rows",
        )
