"""Columns of a manifest, and pure functions on Arrow tables to validate and hash its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.manifest.archive import UNSAFE_NAME

SPLITS = ("train", "val", "query", "gallery", "generated")
ROLES = ("identity", "distractor")

BASE_COLUMNS: Mapping[str, pa.DataType] = {
    "file_name": pa.string(),
    "source": pa.string(),
    "partition": pa.string(),
    "pid": pa.int64(),
    "camid": pa.int64(),
    "split": pa.string(),
    "role": pa.string(),
    "caption": pa.string(),
}
"""Required columns; only ``caption`` may hold nulls."""

GENERATED_COLUMNS: Mapping[str, pa.DataType] = {
    "source_pid": pa.int64(),
    "prompt": pa.string(),
    "attributes": pa.string(),
    "seed": pa.int64(),
    "generator": pa.string(),
}
"""Required for rows of split ``generated`` (``attributes`` is a JSON object as text); null in other rows."""

SCORED_COLUMNS: Mapping[str, pa.DataType] = {
    "confidence": pa.float64(),
    "similarity": pa.float64(),
    "margin": pa.float64(),
    "consistency": pa.float64(),
}
"""Optional; null or finite."""

SELECTED_COLUMNS: Mapping[str, pa.DataType] = {"kept": pa.bool_(), "reason": pa.string()}
"""Optional."""

_STAGES_COLUMNS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("description", "circumstances", "caption_problem", "score_problem"), pa.string()),
    **dict.fromkeys(("nearest_real", "nearest_real_source", "nearest_label"), pa.string()),
    "real_distance": pa.float64(),
}
"""Additional columns of stages; they follow the contract's columns, sorted by name like any others."""

KNOWN_COLUMNS: Mapping[str, pa.DataType] = {**BASE_COLUMNS, **GENERATED_COLUMNS, **SCORED_COLUMNS, **SELECTED_COLUMNS}


def table_from_columns(columns: Mapping[str, Any], origin: str) -> pa.Table:
    """Build a table from lists, NumPy or Arrow arrays; a single str, number, bool or None stands for every row.

    Args:
        columns: values by column name. A missing ``caption`` is filled with nulls.
        origin: the path or folder of the rows, for the error message.

    Raises:
        UserError: the columns differ in length, or values do not have their column's type.
    """
    columns = {"caption": None, **columns}
    lengths = {name: len(values) for name, values in columns.items() if not _is_single(values)}
    if len(set(lengths.values())) > 1:
        raise UserError(
            f"The columns of a manifest differ in length ({origin})",
            found=", ".join(f"{name}: {length}" for name, length in lengths.items()),
            remedy="give every column one value per image",
        )
    rows = next(iter(lengths.values()), 0)
    return pa.table({name: _array(name, values, rows, origin) for name, values in columns.items()})


def normalize(table: pa.Table, origin: str) -> pa.Table:
    """Cast and sort the columns of a table as in the contract, without metadata, so that equal rows make equal tables.

    Known columns come first, in the contract's order; others follow by name.

    Args:
        table: any table.
        origin: the path or folder it belongs to, for the error message.

    Raises:
        UserError: a required column is missing, a name occurs twice, or a type is wrong.
    """
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Columns occur twice in the manifest of {origin}", found=shorten(twice))
    _require_columns(
        table, BASE_COLUMNS, f"The manifest of {origin} lacks columns", "add them; see `Manifest` for their content"
    )
    order = [name for name in KNOWN_COLUMNS if name in names]
    order += sorted(name for name in names if name not in KNOWN_COLUMNS)
    return pa.table({name: _cast(name, table[name], origin) for name in order})


def validate(table: pa.Table, origin: str) -> None:
    """Check the rows of a normalized table; no Python loop over rows.

    Args:
        table: a table from ``normalize``.
        origin: the path or folder it belongs to, for the error message.

    Raises:
        UserError: nulls, unknown split or role, an empty source or partition, a negative pid, an unsafe or repeated
            file name, a distractor outside gallery and val, a generated row without its columns, a non-finite score.
    """
    for name in BASE_COLUMNS:
        if name != "caption":
            _refuse(table, pc.is_null(table[name]), f"column {name!r} holds nulls", "give every row a value", origin)
    _refuse(
        table,
        pc.match_substring_regex(table["file_name"], UNSAFE_NAME),
        "file names leave the manifest's folder or are not in plain POSIX form",
        "write paths relative to the folder, with '/', without '.', '..' or '//'",
        origin,
        show="file_name",
    )
    for name, allowed in (("split", SPLITS), ("role", ROLES)):
        unknown = pc.invert(pc.is_in(table[name], value_set=pa.array(allowed)))
        _refuse(table, unknown, f"unknown values in column {name!r}", f"use {', '.join(allowed)}", origin, show=name)
    for name in ("source", "partition"):
        _refuse(table, pc.equal(table[name], ""), f"column {name!r} is empty", "fill it in every row", origin)
    remedy = "junk boxes and persons without a number do not belong in a manifest"
    _refuse(table, pc.less(table["pid"], 0), "negative pids", remedy, origin, show="pid")
    misplaced = pc.and_(
        pc.equal(table["role"], "distractor"),
        pc.invert(pc.is_in(table["split"], value_set=pa.array(["gallery", "val"]))),
    )
    _refuse(table, misplaced, "distractors in another split than gallery or val", "drop them", origin, show="split")
    _validate_generated(table, origin)
    for name in SCORED_COLUMNS:
        if name in table.column_names:
            wrong = pc.invert(pc.is_finite(table[name]))
            _refuse(table, wrong, f"scores in {name!r} are not finite", "leave a missing score null", origin)
    _refuse_repeated_names(table, origin)


def content_hash(table: pa.Table) -> str:
    """Hash the rows of a normalized table: names, types and values in order, independent of their encoding.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name]
        # Parquet renames the parts of nested types, so only their values are hashed.
        kind = "nested" if pa.types.is_nested(column.type) else str(column.type)
        digest.update(json.dumps([name, kind, len(column)]).encode())
        _hash_column(digest, column)
    return digest.hexdigest()


def _is_single(values: Any) -> bool:
    return values is None or isinstance(values, (str, int, float, np.generic))


def _array(name: str, values: Any, rows: int, origin: str) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    try:
        if values is None:
            return pa.nulls(rows, KNOWN_COLUMNS.get(name, pa.string()))
        # No type here: Arrow would silently truncate 0.5 to an integer. `_cast` is strict.
        return pa.repeat(pa.scalar(values), rows) if _is_single(values) else pa.array(values)
    except UnicodeEncodeError as error:  # a file name on disk that is not UTF-8
        raise UserError(
            f"A text in column {name!r} of the manifest of {origin} is not valid Unicode",
            found=repr(error.object),
            remedy="rename the file" if name == "file_name" else "correct the text",
        ) from error
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _wrong_type(name, f"{type(error).__name__}: {error}", origin) from error


def _cast(name: str, column: pa.ChunkedArray, origin: str) -> pa.ChunkedArray:
    """Cast a column to its type if this is lossless; strings always become plain strings."""
    actual = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    textual = pa.types.is_string(actual) or pa.types.is_large_string(actual) or pa.types.is_string_view(actual)
    expected = KNOWN_COLUMNS.get(name, pa.string() if textual else actual)
    if not pa.types.is_null(actual):
        expected = _STAGES_COLUMNS.get(name, expected)
    fits = (
        actual == expected
        or pa.types.is_null(actual)
        or (textual and expected == pa.string())
        or (pa.types.is_integer(actual) and expected == pa.int64())
        or ((pa.types.is_floating(actual) or pa.types.is_integer(actual)) and expected == pa.float64())
    )
    if not fits:
        raise _wrong_type(name, str(column.type), origin)
    try:
        return column if column.type == expected else column.cast(expected)
    except pa.ArrowException as error:
        raise _wrong_type(name, f"{column.type}: {error}", origin) from error


def _wrong_type(name: str, found: str, origin: str) -> UserError:
    expected = KNOWN_COLUMNS.get(name, _STAGES_COLUMNS.get(name))
    return UserError(
        f"Column {name!r} of the manifest of {origin} has values of the wrong type",
        looked_for=str(expected) if expected else "values of one type",
        found=found,
        remedy="convert the column before you make the manifest",
    )


def _require_columns(table: pa.Table, required: Iterable[str], what: str, remedy: str) -> None:
    names = table.column_names
    missing = [name for name in required if name not in names]
    if missing:
        extra = [name for name in names if name not in KNOWN_COLUMNS]
        hints = [f"rename {guess!r} to {name!r}" for name in missing if (guess := nearest(name, extra))]
        raise UserError(
            f"{what}: {', '.join(missing)}",
            looked_for=", ".join(required),
            found=shorten(names, 20) or "no columns",
            remedy="; ".join(hints) or remedy,
        )


def _refuse(table: pa.Table, bad: Any, what: str, remedy: str, origin: str, show: str | None = None) -> None:
    """Raise an error with rows and values if the mask ``bad`` is true for any row; nulls count as false."""
    if not pc.any(bad).as_py():
        return
    rows = np.flatnonzero(np.asarray(pc.fill_null(bad, False)))
    values = f": {shorten(map(repr, table[show].take(rows[:6]).to_pylist()))}" if show else ""
    raise UserError(
        f"The manifest of {origin} is not valid: {what}",
        found=f"{len(rows)} rows, first at {shorten(map(str, rows[:6].tolist()))}{values}",
        remedy=remedy,
    )


def _validate_generated(table: pa.Table, origin: str) -> None:
    generated = pc.equal(table["split"], "generated")
    if not pc.any(generated).as_py():
        return
    what = f"The manifest of {origin} has generated rows but lacks columns"
    _require_columns(table, GENERATED_COLUMNS, what, "add the origin of each generated row")
    for name in GENERATED_COLUMNS:
        empty = pc.and_(generated, pc.is_null(table[name]))
        _refuse(table, empty, f"generated rows without {name!r}", "give every generated row a value", origin)


def _refuse_repeated_names(table: pa.Table, origin: str) -> None:
    names = table["file_name"]
    if pc.count_distinct(names).as_py() == len(names):
        return
    counts = pc.value_counts(names)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise UserError(
        f"The manifest of {origin} is not valid: file names occur more than once",
        found=f"{len(repeated)} names: {shorten(repeated.slice(0, 8).to_pylist())}",
        remedy="keep one row per image",
    )


def _hash_column(digest: Any, column: pa.ChunkedArray) -> None:
    if column.null_count:
        digest.update(np.packbits(np.asarray(pc.is_null(column))).tobytes())
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = pc.fill_null(column, "" if pa.types.is_string(kind) else b"")
        digest.update(np.asarray(pc.binary_length(filled)).astype("<i4").tobytes())
        for chunk in filled.chunks:
            _, offsets, data = chunk.buffers()
            if len(chunk) and data is not None:
                ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                digest.update(memoryview(data)[ends[0] : ends[-1]])
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        zero = pa.scalar(0).cast(kind)
        values = np.asarray(pc.fill_null(column, zero))
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    else:  # nested or date values, in extra columns only: slow but independent of the encoding
        for chunk in column.chunks:
            for value in chunk.to_pylist():
                digest.update(repr(value).encode() + b"\n")
