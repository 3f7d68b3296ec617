"""Read and write files of features with the image, camera and person of each row; Parquet block by block."""

from __future__ import annotations

import functools
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from diffreid_lightning.errors import first_line
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.schema import BASE_COLUMNS
from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import DamagedFile, damaged_error, mismatch, parse_json

SUFFIXES = (".parquet", ".npz", ".npy")
_FEATURE = "feature"
_KEY = b"diffreid_lightning.features"
_ABOUT = {"images": str, "network": {"weights": str, "num_features": int}, "key": str}
_ROWS = {name: BASE_COLUMNS[name] for name in ("file_name", "source", "partition", "split", "pid", "camid")}
_HEADINGS = ",".join(f'"{name}"' for name in _ROWS).encode()
_BLOCK_BYTES = 16 << 20

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """An opened Parquet file of features.

    Args:
        path: the file.
        rows: one row per image: ``file_name``, ``source``, ``partition``, ``split``, ``pid``, ``camid``; the last two
            are null where they are unknown.
        images: the folder or .zip that file names are relative to.
        network: the record of the network that computed the features.
        key: hash of the images and the network.
    """

    path: Path
    rows: pa.Table
    images: Path
    network: Mapping[str, Any]
    key: str

    @functools.cached_property
    def image_root(self) -> ImageRoot:
        """Return what images are read from, opened once. Raises UserError if it is missing."""
        return ImageRoot(self.images)

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Yield the first row and the (n, D) features of each block of some 16 MiB.

        Raises:
            DamagedFile: a block cannot be read.
        """
        width, start = int(self.network["num_features"]), 0
        file = pq.ParquetFile(self.path)
        for group in range(file.num_row_groups):  # iter_batches would read ahead
            try:
                column = file.read_row_group(group, columns=[_FEATURE])[_FEATURE].combine_chunks()
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(first_line(error)) from error
            if column.null_count:
                raise self._damaged("a row without features")
            block = np.array(column.flatten()).reshape(-1, width)  # a copy: torch takes no read-only arrays
            yield start, block
            start += len(block)

    def _damaged(self, found: str) -> DamagedFile:
        remedy = "remove it and write it again with embed"
        return damaged_error(self.path, found, looked_for="the features of each row", remedy=remedy)


def open_features(file: Path) -> FeatureFile | None:
    """Open a Parquet file that ``embed`` has written; None for any other, or a damaged one."""
    if not_a_file(file) is not None:  # a pipe would be waited for
        return None
    try:
        schema = pq.read_schema(file)
        about = parse_json((schema.metadata or {})[_KEY])
        rows = pq.ParquetFile(file).read(columns=[name for name in schema.names if name != _FEATURE])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    if mismatch(about, _ABOUT) is not None or not _fits(schema, about["network"]["num_features"]):
        return None
    if not len(rows) or rows["file_name"].null_count:
        return None
    return FeatureFile(file, rows, Path(about["images"]), about["network"], about["key"])


def key_of(file: Path) -> str | None:
    """Return the hash of images and network of a file that ``embed`` has written; None for others, and for .npy."""
    if file.suffix != ".npz":
        made = open_features(file)
        return None if made is None else made.key
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = parse_json(str(arrays["about"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    return about["key"] if mismatch(about, _ABOUT) is None else None


def is_rows_file(file: Path) -> bool:
    """Return true if a file begins like the .csv that ``embed`` writes beside a .npy."""
    if not_a_file(file) is not None:
        return False
    with file.open("rb") as opened:
        return opened.readline(len(_HEADINGS) + 2).rstrip() == _HEADINGS


def _fits(schema: pa.Schema, width: int) -> bool:
    """Return true if each column of a file of features is there once, in its type."""
    if not 0 < width < 2**31:
        return False
    kinds = _ROWS | {_FEATURE: pa.list_(pa.float32(), width)}
    return all(schema.names.count(name) == 1 and schema.field(name).type == kind for name, kind in kinds.items())


def write_features(out: Path, rows: pa.Table, features: Floats, about: Mapping[str, Any]) -> None:
    """Write features atomically, in the form that the suffix names.

    Args:
        out: ``.parquet``: the rows and a column ``feature`` of fixed-size lists; ``.npz``: arrays ``features`` and one
            per column, -1 for an unknown person or camera; ``.npy``: the features alone, and the rows in a .csv beside.
        rows: N rows.
        features: (N, D) float32; may be memory-mapped.
        about: ``images``, ``network`` and ``key`` of a :class:`FeatureFile`, as plain JSON values.

    Raises:
        OSError: the disk failed.
    """
    text = json.dumps(about, sort_keys=True)
    if out.suffix == ".npy":
        with replace_file(out.with_suffix(".csv")) as staged:
            pa_csv.write_csv(rows, staged)
    with replace_file(out, durable=True) as staged, staged.open("wb") as file:  # NumPy would add a suffix to a path
        if out.suffix == ".parquet":
            _write_parquet(file, rows, features, text)
        elif out.suffix == ".npy":
            np.save(file, features)
        else:
            columns: dict[str, Any] = {n: np.asarray(rows[n].to_pylist(), np.str_) for n in rows.column_names}
            columns |= {name: np.asarray(rows[name].fill_null(-1)) for name in ("pid", "camid")}
            columns |= {"features": features, "about": np.asarray(text)}
            np.savez(file, **columns)


def _write_parquet(file: Any, rows: pa.Table, features: Floats, text: str) -> None:
    width = features.shape[1]
    schema = rows.schema.append(pa.field(_FEATURE, pa.list_(pa.float32(), width))).with_metadata({_KEY: text})
    size = max(_BLOCK_BYTES // (4 * width), 64)
    with pq.ParquetWriter(file, schema, use_dictionary=["source", "partition", "split"]) as writer:
        for start in range(0, len(features), size):
            block = np.ascontiguousarray(features[start : start + size])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width)
            writer.write_table(pa.table([*rows.slice(start, len(block)).columns, lists], schema=schema))
