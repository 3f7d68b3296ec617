"""The tables of the six settings from the cells that ship."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from diffreid_lightning.benchmark.comparison import Row, compare
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.errors import UserError
from experiments.six_settings.tables import (
    CELLS,
    _run,
    comparisons_of,
    differences_table,
    read_cells,
    settings_table,
    without_labels_table,
)


def cells_of(file: Path, initialization: str, setting: str, dataset: str) -> dict[str, float]:
    with file.open(encoding="utf-8", newline="") as stream:
        return {
            line["seed"]: float(line["mAP"])
            for line in csv.DictReader(stream)
            if (line["initialization"], line["setting"], line["dataset"]) == (initialization, setting, dataset)
            and line["state"] == "done"
        }


def test_tables_hold_the_cells_that_ship() -> None:
    outcomes, grid = read_cells([CELLS]), read_grid(["benchmark/miniperson"])
    place = ("small-scale 30 %", "station")
    ours, real = (cells_of(CELLS, label, *place) for label in ("Diff-Person", "real images, as long"))
    seeds = sorted(ours.keys() & real.keys())
    assert len(seeds) > 1
    (line,) = re.findall(r"^\| small-scale 30 % \| station \|.*$", settings_table(compare(grid, outcomes)), re.M)
    assert f"{np.mean(list(ours.values())):.1f} ± {np.std(list(ours.values()), ddof=1):.1f} /" in line
    test = stats.ttest_rel([ours[seed] for seed in seeds], [real[seed] for seed in seeds])
    low, high = test.confidence_interval(0.95)
    text = differences_table(comparisons_of(grid, outcomes, "Diff-Person"), Row("Diff-Person"))
    (line,) = re.findall(r"^\| small-scale 30 % \| station \|.*$", text, re.M)
    assert f"({low:+.1f} to {high:+.1f})" in line


def test_settings_without_labels_are_compared_seed_by_seed() -> None:
    (line,) = re.findall(r"^\| campus to station \|.*$", without_labels_table(read_cells([CELLS]), "Diff-Person"), re.M)
    adapted, direct, unsupervised = (
        cells_of(CELLS, "Diff-Person", setting, "campus to station")
        for setting in ("adaptation", "direct transfer", "unsupervised")
    )
    supervised = cells_of(CELLS, "scratch", "supervised", "station")
    seeds = sorted(adapted)
    assert len(seeds) == 3
    test = stats.ttest_rel([adapted[seed] for seed in seeds], [direct[seed] for seed in seeds]).confidence_interval(
        0.95
    )
    assert f"({test.low:.1f} to {test.high:.1f})" in line
    share = np.mean([100 * unsupervised[seed] / supervised[seed] for seed in seeds])
    assert f"| {share:.1f} (" in line


def test_a_later_file_replaces_a_cell(tmp_path: Path) -> None:
    lines = CELLS.read_text(encoding="utf-8").splitlines()
    done = next(line for line in lines if ",done," in line)
    parts = done.rpartition(",done,")
    changed = tmp_path / "cells.csv"
    changed.write_text(
        "\n".join([lines[0], parts[0] + ",done,12.5" + parts[2][parts[2].index(",") :]]), encoding="utf-8"
    )
    before, after = read_cells([CELLS]), read_cells([CELLS, changed])
    assert len(before) == len(after)
    (different,) = (one for other, one in zip(before, after, strict=True) if other.values != one.values)
    assert different.values["mAP"] == pytest.approx(12.5)


def test_what_a_row_lacks_is_left_blank() -> None:
    outcomes = read_cells([CELLS])
    one_seed = without_labels_table([each for each in outcomes if each.cell.seed == 0], "Diff-Person")
    assert "nan" not in one_seed and re.search(r"^\| campus to station \| 1 \| -?\d+\.\d \|", one_seed, re.M)
    adapted = [each for each in outcomes if each.cell.setting != "direct transfer"]
    assert re.search(r"^\| campus to station \| 3 \|  \| \d", without_labels_table(adapted, "Diff-Person"), re.M)
    assert "campus to station" not in without_labels_table(outcomes, "no such row")


def test_a_row_that_is_not_there_is_a_users_mistake() -> None:
    given = argparse.Namespace(config=[], root=None, cells=[CELLS], seeds=None, row="Diff-Persn", picture=None)
    with pytest.raises(UserError, match="did you mean 'Diff-Person'"):
        _run(given)
