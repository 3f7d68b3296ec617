"""Read a table's columns as text, those of a Parquet file only when they are asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.image_root import ImageRoot, is_image_name

_DELIMITERS = ",;\t"

Columns = Mapping[str, list[str]]
"""The values of each column, by its heading."""


class _ParquetColumns(Columns):
    """Read each column of a Parquet file when it is asked for: one may hold gigabytes of images.

    Args:
        file: its path, for messages.
        source: the path, or the bytes of a file in an archive.

    Raises:
        UserError: it is damaged or has two columns of one name; a column holds no text or is damaged.
    """

    def __init__(self, file: Path, source: Path | bytes) -> None:
        self._file = file
        self._source = source
        try:
            self._schema = pq.read_schema(self._open())
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error
        _refuse_repeated(file, self._schema.names)
        self._read: dict[str, list[str]] = {}

    def __getitem__(self, heading: str) -> list[str]:
        if heading not in self._read:
            self._read[heading] = self._values(heading)
        return self._read[heading]

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.names)

    def __len__(self) -> int:
        return len(self._schema.names)

    def _open(self) -> Path | pa.BufferReader:
        return self._source if isinstance(self._source, Path) else pa.BufferReader(self._source)

    def _values(self, heading: str) -> list[str]:
        if heading not in self._schema.names:
            raise KeyError(heading)
        kind = self._schema.field(heading).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise UserError(
                f"The column {heading!r} of {self._file} holds no text",
                looked_for="one word or number for each image, such as the path of its file",
                found=str(kind),
                remedy="store the images as files, and write their paths into the table",
            )
        try:
            with pq.ParquetFile(self._open()) as opened:
                table = opened.read(columns=[heading])
            table.validate(full=True)  # reading alone accepts strings that are not UTF-8
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self._file, error) from error
        return ["" if value is None else str(value) for value in table[heading].to_pylist()]


def read_table(file: Path) -> Columns:
    """Read a table as text: its columns by their headings.

    Args:
        file: a .csv, .tsv or .parquet file, on disk or in a .zip.

    Raises:
        UserError: the file does not exist, is damaged or not text, or its lines differ in length.
    """
    folder = ImageRoot(file.parent)
    if not folder.exists(file.name):
        guess = nearest(file.name, [name for name in folder.names() if "/" not in name])
        raise UserError(
            f"There is no table at {file}",
            remedy=f"did you mean {file.parent / guess}?" if guess else "correct the path",
        )
    if file.suffix.lower() == ".parquet":
        return _ParquetColumns(file, folder.read(file.name) if folder.in_archive else folder.path / file.name)
    return _read_csv(file, folder.read(file.name))


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"A table cannot be read: {file}", found=str(error), remedy="write it again, or as .csv")


def _refuse_repeated(file: Path, headings: Sequence[str]) -> None:
    twice = sorted({heading for heading in headings if headings.count(heading) > 1})
    if twice:
        raise UserError(
            f"Headings of {file} occur more than once",
            found=shorten(map(repr, twice)),
            remedy="give each column its own heading",
        )


def _read_csv(file: Path, data: bytes) -> dict[str, list[str]]:
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=first.count)
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"A table cannot be read: {file}", found=str(error), remedy="save it as CSV in UTF-8 again"
        ) from error
    headings, *rows = [[cell.strip() for cell in line] for line in lines] or [[]]
    uneven = [number for number, row in enumerate(rows, 2) if len(row) != len(headings)]
    if uneven:
        raise UserError(
            f"{len(uneven)} rows of {file} have more or fewer values than there are headings",
            looked_for=f"{len(headings)} values: {shorten(headings)}",
            found=f"rows {shorten(map(str, uneven), 5)}; the headings are row 1, empty lines are not counted",
            remedy="write that many values into each row, and quote values that contain the separator",
        )
    if any(map(is_image_name, headings)):
        raise UserError(
            f"The table {file} has no headings",
            found=f"its first line is {shorten(headings)}",
            remedy="add a first line with the headings path,pid,camid,split (one per column)",
        )
    _refuse_repeated(file, headings)
    return {heading: [row[column] for row in rows] for column, heading in enumerate(headings)}
