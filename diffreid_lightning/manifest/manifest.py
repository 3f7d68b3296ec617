"""The contract between stages: one row per image, in a Parquet file that is validated on read and written atomically.

An identity is (source, partition, pid): datasets may number train and test people from 0 separately, so a pid alone is
ambiguous. A folder with a manifest beside its images can be loaded as a Hugging Face ``imagefolder``, with
``data_files="**"`` if its folders are named after splits (``train``, ``test``, ``val``).
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffreid_lightning.errors import RunError, UserError, did_you_mean, shorten
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.schema import content_hash, normalize, table_from_columns, validate
from diffreid_lightning.paths import absolute_path
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import mismatch, parse_json

FILE_NAME = "metadata.parquet"
SCHEMA_VERSION = 1
_METADATA_KEY = b"diffreid_lightning"
_LEVELS_UP = 3  # a recorded image root has at most this many "..", else it is absolute


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """A validated table of images. Immutable: methods that change something return a new manifest.

    Columns: ``file_name`` (POSIX path below the image root), ``source``, ``partition``, ``pid``, ``camid``, ``split``
    (train, val, query, gallery, generated), ``role`` (identity, distractor), ``caption`` (may be null), then those of
    generated, scored and selected rows (see ``schema``), then any others by name.

    Args:
        table: the rows; types are cast to the contract's, columns sorted in its order.
        root: the folder or .zip that file names are relative to. It need not exist until ``images`` is used.
        parents: content hashes of the manifests that this one was made from. New manifests keep them; a stage sets them
            with ``with_parents``.

    Raises:
        UserError: the rows break the contract; the message shows rows and values.
    """

    table: pa.Table
    root: Path
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        root = absolute_path(self.root)
        table = normalize(self.table, str(root))
        validate(table, str(root))
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "parents", tuple(self.parents))

    @classmethod
    def from_columns(
        cls, root: str | os.PathLike[str], columns: Mapping[str, Any], *, parents: Iterable[str] = ()
    ) -> Manifest:
        """Build a manifest from columns.

        Args:
            root: the folder or .zip that file names are relative to.
            columns: values by column name: a list, a NumPy or an Arrow array with one value per image, or a single
                str, number, bool or None for every image. ``caption`` is optional (null).
            parents: content hashes of the manifests that these rows were made from.

        Raises:
            UserError: the columns differ in length or break the contract.
        """
        return cls(table_from_columns(columns, str(root)), Path(root), tuple(parents))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest and validate it.

        Args:
            path: the Parquet file, a folder with a ``metadata.parquet``, or a .zip (or folder inside one) with it.

        Raises:
            UserError: the file is missing, damaged, written by a newer version, or its rows break the contract.
        """
        file = absolute_path(path)
        folder = file.parent if file.suffix == ".parquet" else file
        file = file if file.suffix == ".parquet" else file / FILE_NAME
        images = ImageRoot(folder)
        if not images.exists(file.name):
            around = [name for name in images.names() if name.endswith(".parquet")] if images.in_archive else None
            around = around if around is not None else sorted(entry.name for entry in folder.iterdir())
            raise UserError(
                f"There is no manifest at {file}",
                looked_for=file.name,
                found=shorten(around) or "nothing",
                remedy="give the output folder of a stage, or the folder of a dataset for an option that takes one",
            )
        try:
            source = pa.BufferReader(images.read(file.name)) if images.in_archive else file
            table = pq.ParquetFile(source).read()
            table.validate(full=True)  # reading alone accepts strings that are not UTF-8
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"A manifest cannot be read: {file}",
                looked_for="a Parquet file",
                found=f"{type(error).__name__}: {error}",
                remedy="run the stage that wrote it again; it was damaged later, as manifests are written atomically",
            ) from error
        noted = _read_metadata(table.schema.metadata, file)
        try:
            return cls(table, _image_root(folder, noted["images"]), tuple(noted["parents"]))
        except UserError as error:
            raise UserError(
                f"{error.what} (read from {file})",
                looked_for=error.looked_for,
                found=error.found,
                remedy=error.remedy,
            ) from error

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the manifest atomically and durably; equal rows, parents and relative image root give equal bytes.

        Args:
            path: a folder (created if missing; the file is ``metadata.parquet``) or a file ending in ``.parquet``.

        Returns:
            The file's path.

        Raises:
            UserError: the path is not writable.
            RunError: the disk is full or failed.
        """
        path = absolute_path(path)
        file = path if path.suffix == ".parquet" else path / FILE_NAME
        noted = {
            "schema": SCHEMA_VERSION,
            "parents": list(self.parents),
            "images": _relative_root(self.root, file.parent),
        }
        table = self.table.combine_chunks().replace_schema_metadata({_METADATA_KEY: json.dumps(noted, sort_keys=True)})
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(file, durable=True, contended=True) as staged, staged.open("wb") as handle:
                pq.write_table(table, handle, compression="zstd", row_group_size=1 << 17)
        except OSError as error:
            kind = RunError if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT) else UserError
            raise kind(
                f"A manifest cannot be written: {file}",
                found=f"{type(error).__name__}: {error}",
                remedy="free disk space, or choose a writable folder",
            ) from error
        return file

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Manifest({len(self)} images, root={str(self.root)!r})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns, in order."""
        return tuple(self.table.column_names)

    @functools.cached_property
    def images(self) -> ImageRoot:
        """Return the root that images are read from. Raises UserError if it is missing."""
        return ImageRoot(self.root)

    @functools.cached_property
    def content_hash(self) -> str:
        """Return the SHA-256 of the rows (64 hexadecimal digits), independent of path, parents and Parquet encoding."""
        return content_hash(self.table)

    @functools.cached_property
    def file_fingerprint(self) -> str:
        """Return the :meth:`~.image_root.ImageRoot.fingerprint` of all image files, which detects changed files.

        It is computed once. Raises UserError if the image root does not exist.
        """
        return self.images.fingerprint(self.table["file_name"].to_pylist())

    def numpy(self, name: str) -> npt.NDArray[Any]:
        """Return one column, shape (N,): int64, float64 (null is NaN), bool, or object (strings; null is None).

        Raises:
            UserError: there is no such column, or an int or bool column has nulls, which NumPy cannot represent.
        """
        if name not in self.columns:
            raise UserError(
                f"The manifest of {self.root} has no column {name!r}",
                found=", ".join(self.columns),
                remedy=did_you_mean(name, self.columns, "run the stage that adds it first"),
            )
        column = self.table[name]
        if column.null_count and (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
            raise UserError(
                f"Column {name!r} of the manifest of {self.root} has no value in some rows",
                found=f"{column.null_count} nulls in {len(self)} rows",
                remedy="filter the manifest to rows with a value",
            )
        return np.asarray(column.to_numpy())

    def filter(self, mask: npt.ArrayLike) -> Manifest:
        """Keep the rows where ``mask``, bool of shape (N,), is true, with their order and parents."""
        mask = np.asarray(mask)
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise ValueError(f"expected a bool mask of shape ({len(self)},), got {mask.dtype} of shape {mask.shape}")
        return Manifest(self.table.filter(pa.array(mask)), self.root, self.parents)

    def take(self, rows: npt.ArrayLike) -> Manifest:
        """Keep the rows of these positions, in this order; int of shape (M,), without repetition."""
        return Manifest(self.table.take(pa.array(np.asarray(rows, np.int64))), self.root, self.parents)

    def with_columns(self, columns: Mapping[str, Any]) -> Manifest:
        """Add or replace columns, given as in ``from_columns``."""
        everything = dict(zip(self.columns, self.table.columns, strict=True)) | dict(columns)
        return Manifest(table_from_columns(everything, str(self.root)), self.root, self.parents)

    def with_parents(self, parents: Iterable[str]) -> Manifest:
        """Set the content hashes of the manifests that these rows were made from."""
        return Manifest(self.table, self.root, tuple(parents))

    def identities(self) -> tuple[npt.NDArray[np.int64], list[tuple[str, str, int]]]:
        """Number the identities.

        Returns:
            labels: int64 of shape (N,), the position of each row's identity in ``keys``.
            keys: the sorted (source, partition, pid) of all identities, so that labels do not depend on the order of
                the rows. The distractors' pid counts too.
        """
        codes: npt.NDArray[np.int64] = np.zeros(len(self), np.int64)
        values: list[list[Any]] = []
        for name in ("source", "partition", "pid"):
            column = self.table[name]
            distinct = pc.unique(column)
            distinct = distinct.take(pc.sort_indices(distinct))
            values.append(distinct.to_pylist())
            codes = codes * max(len(distinct), 1) + np.asarray(pc.index_in(column, value_set=distinct))
        present, labels = np.unique(codes, return_inverse=True)
        sources, partitions, pids = values
        keys = []
        for code in present.tolist():
            rest, pid = divmod(code, len(pids))
            source, partition = divmod(rest, len(partitions))
            keys.append((sources[source], partitions[partition], pids[pid]))
        return labels.astype(np.int64, copy=False), keys


def _read_metadata(metadata: Mapping[bytes, bytes] | None, file: Path) -> dict[str, Any]:
    """Return schema, parents and images from the file's metadata; a Parquet file from other tools has none."""
    noted: dict[str, Any] = {"schema": SCHEMA_VERSION, "parents": [], "images": "."}
    try:
        noted = {**noted, **parse_json((metadata or {}).get(_METADATA_KEY, b"{}"))}
        sound = mismatch(noted, {"schema": int, "parents": [str], "images": str}) is None
    except (ValueError, TypeError):  # not JSON, or no object
        sound = False
    if not sound:
        raise UserError(f"The metadata of a manifest is damaged: {file}", remedy="write the manifest again")
    if noted["schema"] > SCHEMA_VERSION:
        raise UserError(
            f"A manifest was written by a newer version of this package: {file}",
            looked_for=f"schema version {SCHEMA_VERSION} or older",
            found=f"schema version {noted['schema']}",
            remedy="update diffreid_lightning",
        )
    return noted


def _image_root(folder: Path, noted: str) -> Path:
    """Return the noted place of the images: seen from the manifest's folder or, where that is a link, its target."""
    seen = [Path(os.path.abspath(base / noted)) for base in (folder, folder.resolve())]  # noqa: PTH100
    there = (place for place in seen if any(map(os.path.isfile, place.parents)) or os.path.exists(place))  # noqa: PTH110
    return next(there, seen[0])


def _relative_root(root: Path, folder: Path) -> str:
    """Return the image root relative to the manifest's folder if it is near, else its absolute path."""
    try:
        common = Path(os.path.commonpath([root, folder]))
    except ValueError:  # two drives
        return root.as_posix()
    near = common != Path(common.anchor) and len(folder.relative_to(common).parts) <= _LEVELS_UP
    return Path(os.path.relpath(root, folder)).as_posix() if near else root.as_posix()
