"""Files of features with the image, camera and person of each row; written and read block by block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import mismatch, parse_json

SUFFIXES = (".parquet", ".npz", ".npy")
FEATURE = "feature"
_KEY = b"diffreid_lightning.features"
_ABOUT = {"images": str, "network": {"weights": str}, "key": str}
_BLOCK_BYTES = 64 << 20

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """An opened file of features.

    Args:
        path: the file.
        rows: one row per image: ``file_name``, ``source``, ``partition``, ``split``, ``pid``, ``camid``; the last two
            are null where they are unknown.
        images: the folder or .zip that file names are relative to.
        network: the record of the network that computed the features.
    """

    path: Path
    rows: pa.Table
    images: Path
    network: Mapping[str, Any]

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Yield the first row and the (n, D) float32 features of each block, some 64 MiB at a time."""
        width = int(self.network["num_features"])
        size = max(_BLOCK_BYTES // (4 * width), 64)
        if self.path.suffix == ".npz":
            features = np.load(self.path, allow_pickle=False)["features"]
            yield from ((start, features[start : start + size]) for start in range(0, len(features), size))
            return
        start = 0
        for batch in pq.ParquetFile(self.path).iter_batches(size, columns=[FEATURE]):
            block = np.array(batch.column(0).flatten()).reshape(-1, width)  # a copy: torch takes no read-only arrays
            yield start, block
            start += len(block)


def is_feature_file(path: str | Path) -> bool:
    """Return true if ``embed`` wrote the file, by its metadata."""
    file = user_path(path)
    return file.is_file() and file.suffix in (".parquet", ".npz") and read_about(file) is not None


def read_about(file: Path) -> dict[str, Any] | None:
    """Return the record in a file of features; None for any other file."""
    try:
        if file.suffix == ".parquet":
            text = (pq.read_schema(file).metadata or {}).get(_KEY)
        elif file.suffix == ".npz":
            text = str(np.load(file, allow_pickle=False)["about"])
        else:
            return None
        about = None if text is None else parse_json(text)
    except Exception:  # zip, NumPy and Arrow raise many types on foreign bytes
        return None
    return about if isinstance(about, dict) and mismatch(about, _ABOUT) is None else None


def open_features(path: str | Path) -> FeatureFile:
    """Open a file that ``embed`` has written.

    Raises:
        UserError: it is none, or damaged.
    """
    file = user_path(path)
    about = read_about(file)
    try:
        if about is None:
            raise ValueError("another file")
        if file.suffix == ".parquet":
            rows = pq.ParquetFile(file).read(columns=[n for n in pq.read_schema(file).names if n != FEATURE])
        else:
            arrays = np.load(file, allow_pickle=False)
            rows = pa.table({n: arrays[n] for n in arrays.files if n not in ("features", "about")})
            known = {n: pa.array(arrays[n], mask=arrays[n] < 0) for n in ("pid", "camid")}
            for name, column in known.items():
                rows = rows.set_column(rows.column_names.index(name), name, column)
    except Exception as error:
        raise UserError(
            f"{file} holds no features that can be read.",
            looked_for="a .parquet or .npz file written by embed",
            found=f"{type(error).__name__}: {error}",
            remedy="write it again: python -m diffreid_lightning embed PATH --model RUN --out FILE.parquet",
        ) from error
    return FeatureFile(file, rows, Path(about["images"]), about["network"])


def write_features(out: Path, rows: pa.Table, features: Floats, about: Mapping[str, Any]) -> None:
    """Write features atomically, in the form that the suffix names.

    Args:
        out: ``.parquet``: the rows and a column ``feature`` of fixed-size lists; ``.npz``: arrays ``features`` and one
            per column, -1 for an unknown person or camera; ``.npy``: the features alone, and the rows in a .csv beside.
        rows: (N) rows.
        features: (N, D) float32; may be memory-mapped.
        about: ``images``, ``network`` and ``key``, as plain JSON values.

    Raises:
        OSError: the disk failed.
    """
    text = json.dumps(about, sort_keys=True)
    if out.suffix == ".parquet":
        _write_parquet(out, rows, features, text)
        return
    if out.suffix == ".npy":
        with replace_file(out.with_suffix(".csv")) as staged:
            pa_csv.write_csv(rows, staged)
    with replace_file(out) as staged, staged.open("wb") as file:  # an open file keeps NumPy from adding a suffix
        if out.suffix == ".npy":
            np.save(file, features)
            return
        names = {name: np.asarray(rows[name].to_pylist(), np.str_) for name in rows.column_names}
        names |= {name: np.asarray(rows[name].fill_null(-1)) for name in ("pid", "camid")}
        np.savez(file, features=features, about=np.asarray(text), **names)  # type: ignore[arg-type]


def _write_parquet(out: Path, rows: pa.Table, features: Floats, text: str) -> None:
    width = features.shape[1]
    schema = rows.schema.append(pa.field(FEATURE, pa.list_(pa.float32(), width))).with_metadata({_KEY: text})
    size = max(_BLOCK_BYTES // (4 * width), 64)
    with replace_file(out, durable=True) as staged, pq.ParquetWriter(staged, schema) as writer:
        for start in range(0, len(features), size):
            block = np.ascontiguousarray(features[start : start + size])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width)
            part = rows.slice(start, len(block)).append_column(schema.field(FEATURE), lists)
            writer.write_table(part.cast(schema).replace_schema_metadata(schema.metadata))
