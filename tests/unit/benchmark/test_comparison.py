"""The table's numbers against scipy on the same values, its rows and marks, and the forms it is written in."""

from __future__ import annotations

import csv
import io
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from diffreid_lightning.benchmark import table_forms
from diffreid_lightning.benchmark.comparison import METRICS, Comparison, Outcome, Row, compare
from diffreid_lightning.benchmark.grid_entries import Grid, Published
from diffreid_lightning.benchmark.jobs import Cell
from diffreid_lightning.benchmark.results_files import print_comparison, write_comparison
from tests.unit.benchmark.conftest import MakeGrid

ROWS, COLUMNS, SEEDS = ("scratch", "Diff-Person", "ready weights"), ("market", "duke"), range(4)


def outcomes(seed: int = 0) -> list[Outcome]:
    """Results of a supervised grid of three rows, two datasets and four seeds."""
    random = np.random.default_rng(seed)
    found = []
    for number, (row, dataset) in enumerate(itertools.product(ROWS, COLUMNS)):
        for each in SEEDS:
            values = {"mAP": float(random.normal(50 + number, 2)), "Rank-1": float(random.normal(60 + number, 2))}
            cell = Cell(row, "supervised", dataset, None, each)
            found.append(Outcome(cell, "done", values, 600, "last", seconds=30.0))
    return found


@pytest.fixture
def grid(make_grid: MakeGrid) -> Grid:
    return make_grid()


def by_seed(found: list[Outcome], row: str, dataset: str, metric: str) -> dict[int, float]:
    return {
        each.cell.seed: each.values[metric]
        for each in found
        if (each.cell.initialization, each.cell.dataset) == (row, dataset) and each.values
    }


def test_every_number_is_scipys(grid: Grid) -> None:
    found = outcomes()
    comparison = compare(grid, found)
    assert [row.title for row in comparison.rows] == list(ROWS)
    assert comparison.columns == (("supervised", "market"), ("supervised", "duke"))
    assert comparison.comparisons == 4
    for metric in METRICS:
        tests = {}
        for row, dataset in itertools.product(ROWS, COLUMNS):
            entry = comparison.entries[Row(row), ("supervised", dataset)]
            values = list(by_seed(found, row, dataset, metric).values())
            assert entry.mean(metric) == pytest.approx(sum(values) / 4)
            assert entry.deviation(metric) == pytest.approx(stats.tstd(values))
            if row != "scratch":
                tests[row, dataset] = stats.ttest_rel(values, list(by_seed(found, "scratch", dataset, metric).values()))
        ordered = sorted(test.pvalue for test in tests.values())
        for (row, dataset), test in tests.items():
            difference = comparison.entries[Row(row), ("supervised", dataset)].differences[metric]
            alone, together = test.confidence_interval(0.95), test.confidence_interval(1 - 0.05 / 4)
            assert (difference.alone.low, difference.alone.high) == pytest.approx((alone.low, alone.high))
            assert (difference.together.low, difference.together.high) == pytest.approx((together.low, together.high))
            assert difference.p == pytest.approx(test.pvalue)
            place = ordered.index(test.pvalue)
            holm = max(min(1.0, (4 - number) * p) for number, p in enumerate(ordered[: place + 1]))
            assert difference.p_holm == pytest.approx(holm)


def test_seeds_that_failed_are_neither_averaged_nor_paired(grid: Grid) -> None:
    found = outcomes()
    gone = Cell("Diff-Person", "supervised", "market", None, 2)
    found = [replace(each, state="failed", values={}) if each.cell == gone else each for each in found]
    comparison = compare(grid, found)
    entry = comparison.entries[Row("Diff-Person"), ("supervised", "market")]
    assert sorted(entry.values("mAP")) == [0, 1, 3]
    assert entry.differences["mAP"].alone.count == 3
    assert "1 of 4 failed" in table_forms.result_text(entry)
    nothing = compare(grid, [replace(each, state="failed", values={}) for each in found])
    assert nothing.comparisons == 0
    assert {table_forms.result_text(entry) for entry in nothing.entries.values()} == {"failed"}
    assert "| scratch | – | – | – | – | 0 | failed | failed |" in table_forms.markdown(grid, nothing)


def test_one_seed_has_no_interval_and_counts_as_no_comparison(grid: Grid) -> None:
    comparison = compare(grid, [each for each in outcomes() if each.cell.seed == 0])
    assert comparison.comparisons == 0
    difference = comparison.entries[Row("Diff-Person"), ("supervised", "duke")].differences["mAP"]
    assert math.isnan(difference.together.low) and difference.p is None and difference.p_holm is None
    text = table_forms.markdown(grid, comparison)
    assert "a number without is of one seed" in text
    assert "Second lines: difference to scratch" in text and "of one seed, or of repeats of one measurement" in text
    assert "of one seed" not in table_forms.markdown(grid, compare(grid, outcomes()))


def test_the_interval_over_people_is_scipys_bootstrap(grid: Grid) -> None:
    random = np.random.default_rng(5)
    counts = {f"person {number}": int(random.integers(1, 6)) for number in range(80)}

    def by_person(mean: float) -> dict[str, np.ndarray]:
        return {
            name: random.normal(mean + number % 7, 15, count) for number, (name, count) in enumerate(counts.items())
        }

    found = [
        replace(each, people=by_person(55.0 if each.cell.initialization == "Diff-Person" else 50.0))
        for each in outcomes()
    ]
    comparison = compare(grid, found)
    column = ("supervised", "duke")
    row, other = (comparison.entries[Row(label), column].people for label in ("Diff-Person", "scratch"))
    gains = np.array([np.mean([row[seed][name].sum() - other[seed][name].sum() for seed in SEEDS]) for name in counts])
    expected = stats.bootstrap(
        (gains, np.array(list(counts.values()))),
        lambda gain, queries, axis: gain.sum(axis) / queries.sum(axis),
        paired=True, vectorized=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    people = comparison.entries[Row("Diff-Person"), column].differences["mAP"].people
    assert people == pytest.approx((expected.low, expected.high), abs=0.25)
    assert comparison.entries[Row("Diff-Person"), column].differences["Rank-1"].people is None
    text = table_forms.markdown(grid, comparison)
    assert f"people: {people[0]:+.1f} to {people[1]:+.1f}" in text and "over the tested people (bootstrap)" in text
    (line,) = (
        line
        for line in table_forms.rows_of(grid, comparison)
        if (line["initialization"], line["dataset"], line["metric"]) == ("Diff-Person", "duke", "mAP")
    )
    assert (line["low_people"], line["high_people"]) == people


def test_other_queries_have_no_interval_over_people(grid: Grid) -> None:
    one, other = {"a": np.array([50.0, 60.0]), "b": np.array([40.0])}, {"a": np.array([50.0]), "b": np.array([40.0])}
    found = [replace(each, people=other if each.cell.initialization == "scratch" else one) for each in outcomes()]
    without = [replace(each, people={} if each.cell.seed == 2 else one) for each in found]  # means are of all seeds
    for outcome in (found, without):
        differences = [entry.differences for entry in compare(grid, outcome).entries.values() if entry.differences]
        assert differences and all(each["mAP"].people is None for each in differences)


def test_cells_that_saw_the_target_have_a_row_of_their_own(grid: Grid) -> None:
    seen = [
        replace(each, cell=replace(each.cell, sees_target=True))
        if (each.cell.initialization, each.cell.dataset) == ("ready weights", "duke")
        else each
        for each in outcomes()
    ]
    comparison = compare(grid, seen)
    assert [row.title for row in comparison.rows] == [*ROWS, "ready weights †"]
    clean, marked = Row("ready weights"), Row("ready weights", sees_target=True)
    assert list(comparison.row_entries(clean)) == [("supervised", "market")]
    assert list(comparison.row_entries(marked)) == [("supervised", "duke")]
    assert comparison.references[marked] == Row("scratch")
    assert "† made with labels of the dataset that it is tested on" in table_forms.markdown(grid, comparison)


def test_a_row_may_be_compared_with_another_one(make_grid: MakeGrid) -> None:
    grid = make_grid({"initializations": {"ready weights": {"against": "Diff-Person"}}})
    found = outcomes()
    comparison = compare(grid, found)
    difference = comparison.entries[Row("ready weights"), ("supervised", "duke")].differences["mAP"]
    one, other = (by_seed(found, row, "duke", "mAP") for row in ("ready weights", "Diff-Person"))
    assert difference.alone.mean == pytest.approx(np.mean([one[seed] - other[seed] for seed in SEEDS]))
    assert "difference to scratch (Diff-Person); Diff-Person (ready weights)" in table_forms.markdown(grid, comparison)


def test_rows_that_saw_the_target_are_compared_with_each_other_where_no_cell_is_clean(make_grid: MakeGrid) -> None:
    grid = make_grid({"initializations": {"ready weights": {"against": "Diff-Person"}}})
    marked = [
        each
        if each.cell.initialization == "scratch"
        else replace(each, cell=replace(each.cell, sees_target=each.cell.dataset == "duke"))
        for each in outcomes()
    ]
    all_marked = [each for each in marked if each.cell.dataset == "duke"]
    row, rival = Row("ready weights", sees_target=True), Row("Diff-Person", sees_target=True)
    for found in (marked, all_marked):
        comparison = compare(grid, found)
        assert comparison.references[row] == rival
        assert comparison.references[rival] == Row("scratch")
        one, other = (by_seed(found, label, "duke", "mAP") for label in ("ready weights", "Diff-Person"))
        difference = comparison.entries[row, ("supervised", "duke")].differences["mAP"]
        assert difference.alone.mean == pytest.approx(np.mean([one[seed] - other[seed] for seed in SEEDS]))


def test_the_row_compared_with_may_be_given(grid: Grid) -> None:
    comparison = compare(grid, outcomes(), "Diff-Person")
    assert comparison.references == {Row("scratch"): Row("Diff-Person"), Row("ready weights"): Row("Diff-Person")}


def test_the_forms_hold_the_same_numbers(grid: Grid) -> None:
    published = Published("R_50 & co", "Fu et al., 2022", {("supervised", "duke"): (79.4, 89.0)})
    grid = replace(grid, published=(published,))
    found = outcomes()
    comparison = compare(grid, found)
    read = list(csv.DictReader(io.StringIO(table_forms.csv_of(table_forms.rows_of(grid, comparison)))))
    assert len(read) == 3 * 2 * 2 + 2
    for row in read:
        if row["published"]:
            assert (float(row["mean"]), row["published"]) in ((79.4, "Fu et al., 2022"), (89.0, "Fu et al., 2022"))
            continue
        values = by_seed(found, row["initialization"], row["dataset"], row["metric"])
        assert float(row["mean"]) == pytest.approx(np.mean(list(values.values())), rel=1e-5)
        text = f"{float(row['mean']):.1f} ± {float(row['sd']):.1f}"
        assert text in table_forms.markdown(grid, comparison)
        assert text.replace("±", r"$\pm$") in table_forms.latex(grid, comparison)
        assert (row["difference"] == "") == (row["initialization"] == "scratch")
    console = Console(width=160, record=True, file=io.StringIO())
    print_comparison(grid, comparison, console)
    shown = console.export_text()
    for text in (table_forms.markdown(grid, comparison), shown):
        assert "79.4 / 89.0" in text and "Fu et al., 2022" in text and "600" in text
    latex = table_forms.latex(grid, comparison)
    assert r"R\_50 \& co (published) &  &  &  &  &  & -- & -- & 79.4 & 89.0 \\" in latex
    lines = [line for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in lines} == {9}
    cells = list(csv.DictReader(io.StringIO(table_forms.csv_of(table_forms.cells_of(found)))))
    assert len(cells) == len(found) and float(cells[0]["mAP"]) == pytest.approx(found[0].values["mAP"], rel=1e-5)


def test_results_that_are_re_ranked_are_marked(grid: Grid) -> None:
    found = [replace(each, reranked=each.cell.dataset == "duke") for each in outcomes()]
    comparison = compare(grid, found)
    text = table_forms.markdown(grid, comparison)
    mean, deviation = (
        getattr(comparison.entries[Row("scratch"), ("supervised", "duke")], name)("mAP")
        for name in ("mean", "deviation")
    )
    assert f"{mean:.1f} ± {deviation:.1f} ‡ /" in text and "‡ with k-reciprocal re-ranking" in text
    assert text.count("‡") == len(ROWS) * len(METRICS) + 1, "no others are marked"
    assert r"$\ddagger$" in table_forms.latex(grid, comparison)
    rows = table_forms.rows_of(grid, comparison) + table_forms.cells_of(found)
    assert all(row["reranked"] == (row["dataset"] == "duke") for row in rows)
    console = Console(width=160, record=True, file=io.StringIO())
    print_comparison(grid, comparison, console)
    assert "‡ with" in console.export_text()
    assert "‡" not in table_forms.markdown(grid, compare(grid, outcomes()))


def test_csv_has_no_noise_of_the_arithmetic() -> None:
    row = {"mAP": 0.1 + 0.2, "p": 1.25e-9, "n": 1234567, "state": "done"}
    assert table_forms.csv_of([row]) == "mAP,p,n,state\n0.3,1.25e-09,1234567,done\n"


def test_a_note_of_several_lines_is_one_comment(make_grid: MakeGrid) -> None:
    grid = make_grid({"initializations": {"scratch": {"note": "random\nweights"}}})
    lines = table_forms.latex(grid, compare(grid, outcomes())).splitlines()
    assert "% scratch: random weights" in lines and "weights" not in lines


def test_a_star_stands_where_the_adjusted_p_value_is_small(grid: Grid) -> None:
    comparison = compare(grid, outcomes())
    stars = []
    for entry in comparison.entries.values():
        difference = entry.differences.get("mAP")
        if difference is not None and difference.p_holm is not None:
            stars.append((table_forms.difference_text(entry, "mAP").endswith("*"), difference.p_holm))
    assert all((p < 0.05) == star for star, p in stars) and {star for star, _ in stars} == {True, False}


def test_everything_is_written(grid: Grid) -> None:
    found = outcomes()
    folder = write_comparison(grid, compare(grid, found), found)
    names = {"table.md", "table.tex", "table.csv", "cells.csv", "differences.png"}
    assert {file.name for file in folder.iterdir()} == names
    with Image.open(folder / "differences.png") as picture:
        assert picture.width > 300 and len(np.unique(np.asarray(picture.convert("L")))) > 10
    before = {name: Path(folder / name).read_bytes() for name in names}
    write_comparison(grid, compare(grid, found), found)
    assert before == {name: Path(folder / name).read_bytes() for name in names}


def test_labels_with_brackets_are_shown_as_they_are(make_grid: MakeGrid) -> None:
    label = "ours [luo19] [/x]"
    grid = make_grid({"initializations": {label: {"init_from": None}}})
    found = [Outcome(replace(each.cell, initialization=label), "done", each.values, 600) for each in outcomes()[:1]]
    console = Console(width=160, record=True, file=io.StringIO())
    print_comparison(grid, compare(grid, found), console)
    assert label in console.export_text()


def test_a_grid_without_results_is_a_table_too(grid: Grid) -> None:
    write_comparison(grid, compare(grid, outcomes()), outcomes())  # of earlier data; all cells are outdated since
    found = [Outcome(each.cell, "to do") for each in outcomes()]
    comparison: Comparison = compare(grid, found)
    assert "to do" in table_forms.markdown(grid, comparison)
    assert not (write_comparison(grid, comparison, found) / "differences.png").exists()


def test_settings_that_were_not_begun_are_named_in_one_line(grid: Grid) -> None:
    found = outcomes()[:1] + [Outcome(each.cell, "to do") for each in outcomes()[1:]]
    found += [Outcome(replace(each.cell, setting="few-shot 30 %"), "to do") for each in outcomes()]
    console = Console(width=160, record=True, file=io.StringIO())
    print_comparison(grid, compare(grid, found), console)
    shown = console.export_text()
    assert "to do: few-shot 30 %\n" in shown and shown.count("few-shot") == 1
    assert shown.count("steps, ") == 1, "only the row with a result is described"
