"""The file of an evaluation's queries, written and read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.metrics.functional import RetrievalResult
from diffreid_lightning.reid.query_table import read_average_precisions, write_queries
from tests.fixtures.dataset_layouts import write_market1501


def test_each_query_with_a_match_has_a_line(tmp_path: Path) -> None:
    manifest = open_dataset(str(write_market1501(tmp_path / "market"))).manifest()
    test_rows = manifest.filter(np.isin(np.asarray(manifest.numpy("split")), ["query", "gallery"]))
    rows = concatenate([test_rows])
    queries = np.flatnonzero(np.asarray(test_rows.numpy("split")) == "query")
    valid = torch.arange(len(queries))[1:]  # the first has no match
    precisions = torch.linspace(0.1, 1, len(valid), dtype=torch.float64)
    result = RetrievalResult(torch.ones(1), 0.0, 0.0, precisions, precisions / 2, valid)
    write_queries(tmp_path / "queries_test.csv", result, rows, queries)
    with (tmp_path / "queries_test.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    expected = test_rows.table.take(queries[1:]).to_pylist()
    for line, row, precision in zip(lines, expected, precisions, strict=True):
        assert (line["image"], line["camera"]) == (row["file_name"], str(row["camid"]))
        assert line["person"] == f"{row['source']}/{row['partition']}/{row['pid']}"
        assert float(line["AP"]) == pytest.approx(100 * float(precision), abs=1e-4)
        assert float(line["INP"]) == pytest.approx(50 * float(precision), abs=1e-4)
    found = read_average_precisions(tmp_path / "queries_test.csv")
    assert set(found) == {line["person"] for line in lines}
    assert sorted(np.concatenate(list(found.values()))) == pytest.approx(100 * precisions.numpy(), abs=1e-4)


@pytest.mark.parametrize("text", ["", "image,AP\na.png,3\n", "image,person,AP\na\n"])
def test_a_damaged_file_is_named_and_counts_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "queries_test.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.warns(match=r"queries_test.csv cannot be read"):
        assert read_average_precisions(file) == {}
