"""Average precision of each query of an evaluation, as a file of the run: written by a test, read by comparisons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from diffreid_lightning.errors import first_line
from diffreid_lightning.storage.atomic import replace_file

if TYPE_CHECKING:  # reports read such files, and should not wait for torch
    from diffreid_lightning.datasets.concat import ConcatRows
    from diffreid_lightning.metrics.functional import RetrievalResult

Floats = npt.NDArray[np.float64]


def query_file(run: Path, split: str) -> Path:
    """Return the file of a run folder with the queries of ``test`` or ``val``."""
    return run / f"queries_{split}.csv"


def write_queries(file: Path, result: RetrievalResult, rows: ConcatRows, queries: npt.NDArray[np.int64]) -> None:
    """Write a line for each query with a match: image, person, camera, AP and INP in percent.

    Args:
        file: the CSV file; replaced as a whole.
        result: of the evaluation.
        rows: all images of the evaluated set.
        queries: (Q,) rows of the queries, in the order of the evaluation.
    """
    valid = queries[result.valid.numpy()]
    people = [rows.identities[label] for label in rows.labels[valid]]
    columns = {
        "image": rows.file_names.take(pa.array(valid)),
        "person": ["/".join(map(str, person)) for person in people],
        "camera": rows.raw_camids[valid],
        "AP": np.round(100 * result.ap.numpy(), 4),
        "INP": np.round(100 * result.inp.numpy(), 4),
    }
    with replace_file(file) as staged:
        pa.csv.write_csv(pa.table(columns), staged)


def read_average_precisions(file: Path) -> Mapping[str, Floats]:
    """Return the AP of each query in percent, by person; empty where there is no file.

    A file that :func:`write_queries` did not write as it is counts as none, with a warning: the results do not depend
    on it.
    """
    if not file.is_file():
        return {}
    try:
        table = pa.csv.read_csv(file)
        people, precisions = table["person"].to_pylist(), table["AP"].to_numpy()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        warnings.warn(f"No intervals over people: {file} cannot be read ({first_line(error)}).", stacklevel=2)
        return {}
    names, whose = np.unique(people, return_inverse=True)
    return {str(name): precisions[whose == place] for place, name in enumerate(names)}
