"""Read Parquet files of the package completely."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage.json_notes import damaged_error


def read_table(file: Path, *, remedy: str) -> pa.Table:
    """Read a Parquet file.

    Args:
        file: the file.
        remedy: what to do if it is damaged.

    Raises:
        DamagedFile: the file is missing, or not a complete Parquet file.
    """
    looked_for = "a Parquet file written by this package"
    found = not_a_file(file)
    if found is not None:
        raise damaged_error(file, found, looked_for=looked_for, remedy=remedy)
    try:
        table = pq.ParquetFile(file).read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged_error(file, f"{type(error).__name__}: {error}", looked_for=looked_for, remedy=remedy) from error
    return table
