"""Parquet files that the package wrote, read whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage.json_notes import damaged


def read_table(file: Path, *, remedy: str) -> pa.Table:
    """Read a Parquet file.

    Args:
        file: the file.
        remedy: what to do where it is damaged.

    Raises:
        DamagedFile: it is not there, or no whole Parquet file.
    """
    looked_for = "a Parquet file as this package writes it"
    found = not_a_file(file)
    if found is not None:
        raise damaged(file, found, looked_for=looked_for, remedy=remedy)
    try:
        table = pq.ParquetFile(file).read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}", looked_for=looked_for, remedy=remedy) from error
    return table
