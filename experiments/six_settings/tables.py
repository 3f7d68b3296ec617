"""Print the tables of the six settings from the cells that ``benchmark`` wrote, and draw their differences.

    python -m experiments.six_settings.tables [--cells FILE ...] [--root FOLDER] [--seeds N ...] [--config GRID]
        [--picture FILE]

The second table compares a row with two others, paired by seed: 95 % intervals, each alone and not corrected, and p
corrected by Holm for the tests of its column, that is of one of the two others. With the folder of a finished grid
there are also intervals over the tested people, from the queries of its cells.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffreid_lightning.benchmark.comparison import METRICS, Comparison, Difference, Outcome, Row, compare
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.jobs import Cell
from diffreid_lightning.benchmark.outcomes import read_outcomes
from diffreid_lightning.benchmark.paired_differences import interval, paired_values
from diffreid_lightning.benchmark.results_files import difference_bar
from diffreid_lightning.errors import UserError, did_you_mean, shorten
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.visualization.interval_plot import IntervalMark, save_intervals
from experiments.instruments.report import table
from experiments.instruments.script import run_script

CELLS = Path(__file__).parent / "results" / "cells.csv"
RIVALS = ("scratch", "real images, as long")


def read_cells(files: Iterable[Path]) -> list[Outcome]:
    """Read the finished cells of ``cells.csv`` files; of a cell in two files, the later one.

    Args:
        files: as ``benchmark`` writes them into ``results``.
    """
    found: dict[Cell, Outcome] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            for entry in csv.DictReader(stream):
                if entry["state"] != "done":
                    continue
                source, _, dataset = entry["dataset"].rpartition(" to ")
                cell = Cell(
                    initialization=entry["initialization"],
                    setting=entry["setting"],
                    dataset=dataset,
                    source=source or None,
                    seed=int(entry["seed"]),
                    sees_target=entry["sees_target"] == "True",
                )
                values = {metric: float(entry[metric]) for metric in METRICS}
                found[cell] = Outcome(cell, "done", values, int(entry["steps"]))
    return list(found.values())


def read_grid_folder(grid: Grid) -> list[Outcome]:
    """Read the finished cells of a grid from its folder, with the precision of each query."""
    place = Workplace(grid.root, {label: dataset.path for label, dataset in grid.datasets.items()})
    return [each for each in read_outcomes(grid, expand(grid), place) if each.values]


def settings_table(comparison: Comparison) -> str:
    """Return mAP / Rank-1 of every row by setting and dataset, with the standard deviation of mAP over seeds."""
    lines = []
    for column in comparison.columns:
        entries = [comparison.entries.get((row, column)) for row in comparison.rows]
        seeds = sorted({each.cell.seed for entry in entries if entry for each in entry.outcomes})
        line: list[object] = [*column, len(seeds)]
        means = [entry.mean("mAP") if entry else None for entry in entries]
        best = max(mean for mean in means if mean is not None)
        for entry, mean in zip(entries, means, strict=True):
            if entry is None or mean is None:
                line.append("")
                continue
            deviation = entry.deviation("mAP")
            spread = "" if deviation is None else f" ± {deviation:.1f}"
            text = f"{mean:.1f}{spread} / {entry.mean('Rank-1'):.1f}"
            line.append(f"**{text}**" if mean == best else text)
        lines.append(line)
    heads = ["setting", "data", "seeds", *(row.title for row in comparison.rows)]
    return table("mAP ± standard deviation / Rank-1", heads, lines)


def differences_table(comparisons: Sequence[Comparison], row: Row) -> str:
    """Return the paired differences in mAP of a row to the reference of each comparison."""
    lines = []
    for column in comparisons[0].columns:
        differences = [
            comparison.entries[row, column].differences.get("mAP") if (row, column) in comparison.entries else None
            for comparison in comparisons
        ]
        lines.append([*column, *(difference_text(each) for each in differences)])
    heads = ["setting", "data", *(f"to {comparison.references[row].label}" for comparison in comparisons)]
    return table(f"mAP of {row.label}, paired differences", heads, lines)


def difference_text(difference: Difference | None) -> str:
    """Write a difference as ``+1.2 (0.3 to 2.1), p 0.02; people 0.1 to 2.4``, as far as these are known."""
    if difference is None:
        return ""
    text = difference.alone.ends_text
    if difference.p_holm is not None:
        text += f", p {difference.p_holm:.2g}"
    if difference.people is not None:
        text += "; people {:+.1f} to {:+.1f}".format(*difference.people)
    return text


def comparisons_of(grid: Grid, outcomes: Sequence[Outcome], label: str) -> list[Comparison]:
    """Compare a row, alone with each of its rivals."""
    found = []
    for rival in RIVALS:
        pair = [each for each in outcomes if each.cell.initialization in (label, rival)]
        found.append(compare(grid, pair, rival))
    return found


def panels_of(comparisons: Sequence[Comparison], row: Row) -> dict[str, dict[str, IntervalMark]]:
    """Return the bars of a row's differences by column and rival."""
    panels: dict[str, dict[str, IntervalMark]] = {}
    for comparison in comparisons:
        for column in comparison.columns:
            bar = difference_bar(comparison, row, column, corrected=False)
            if bar is not None:
                panels.setdefault(": ".join(column), {})[f"to {comparison.references[row].label}"] = bar
    return panels


def without_labels_table(outcomes: Sequence[Outcome], row: str) -> str:
    """Return what a row's settings without labels of the target reach, by seed with 95 % intervals.

    Adaptation less direct transfer from the same weights, in mAP, and the unsupervised mAP in percent of the supervised
    one, from scratch and of the same row. A pair of datasets that the row lacks has no line.
    """
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for each in outcomes:
        found.setdefault((each.cell.initialization, *each.cell.column), {})[each.cell.seed] = each.values["mAP"]
    pairs = dict.fromkeys(each.cell.column[1] for each in outcomes if each.cell.setting == "unsupervised")
    lines = []
    for pair in pairs:
        adapted, direct, unsupervised = (
            found.get((row, setting, pair), {}) for setting in ("adaptation", "direct transfer", "unsupervised")
        )
        seeds = adapted.keys() | unsupervised.keys()
        if not seeds:
            continue
        shares = []
        for label in (RIVALS[0], row):
            supervised = found.get((label, "supervised", pair.rpartition(" to ")[2]), {})
            both = sorted(unsupervised.keys() & supervised.keys())
            shares.append([100 * unsupervised[seed] / supervised[seed] for seed in both])
        lines.append([pair, len(seeds), *map(_range_text, (paired_values(adapted, direct), *shares))])
    heads = [
        "data",
        "seeds",
        "adaptation - direct transfer",
        f"% of supervised, {RIVALS[0]}",
        f"% of supervised, {row}",
    ]
    return table(f"{row} without labels of the target", heads, lines)


def _range_text(values: Sequence[float]) -> str:
    """Write mean and interval: one value has no interval, and none is a blank."""
    if not values:
        return ""
    found = interval(values)
    return f"{found.mean:.1f}" + ("" if found.half is None else f" ({found.low:.1f} to {found.high:.1f})")


def _run(given: argparse.Namespace) -> None:
    grid = read_grid(["benchmark/miniperson", *given.config], given.root)
    outcomes = read_cells(given.cells)
    if given.root is not None:
        measured = {each.cell: each for each in read_grid_folder(grid)}
        outcomes = [each for each in outcomes if each.cell not in measured] + list(measured.values())
    outcomes = [
        each
        for each in outcomes
        if (given.seeds is None or each.cell.seed in given.seeds) and each.cell.initialization in grid.initializations
    ]
    rows = {each.cell.initialization for each in outcomes}
    if given.row not in rows:
        raise UserError(
            f"There is no finished cell of the row {given.row!r}",
            found=shorten(sorted(rows)) or "no row",
            remedy=did_you_mean(given.row, rows, "give one of these as --row, or its grid as --config"),
        )
    order = {label: place for place, label in enumerate(grid.settings)}
    outcomes.sort(key=lambda each: (order.get(each.cell.setting, len(order)), each.cell.dataset))
    print(settings_table(compare(grid, outcomes)))
    row = Row(given.row)
    comparisons = comparisons_of(grid, outcomes, given.row)
    print(differences_table(comparisons, row))
    print(without_labels_table(outcomes, given.row))
    seen = [each for each in outcomes if each.people]
    if len(seen) < len(outcomes) and given.row in {each.cell.initialization for each in seen}:
        seeds = ", ".join(map(str, sorted({each.cell.seed for each in seen})))
        print(f"\nThe same of seeds {seeds}, whose queries are there:")
        print(differences_table(comparisons_of(grid, seen, given.row), row))
    if given.picture is not None:
        with replace_file(given.picture) as staged:
            save_intervals(
                panels_of(comparisons, row),
                [f"to {rival}" for rival in RIVALS],
                f"difference in mAP, {given.row}",
                staged,
                "95 % intervals of the mean over seeds, each alone; dots: seeds",
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, nargs="+", default=[CELLS], help="cells.csv of finished grids")
    parser.add_argument(
        "--root", help="folder of a grid of benchmark/miniperson, whose cells replace those of the files"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="only these, as where some rows have fewer than others")
    parser.add_argument("--config", action="append", default=[], help="grids with more rows, over benchmark/miniperson")
    parser.add_argument("--row", default="Diff-Person", help="the row that is compared")
    parser.add_argument("--picture", type=Path, help="PNG of the differences")
    sys.exit(run_script(_run, parser.parse_args()))
