"""Compare rows of a grid pair by pair, with intervals over the tested people.

    python -m experiments.six_settings.row_differences --config experiments/filtering/label_noise.yaml \
        --pair "half of the people exchanged" "right labels" --pair "of these, any 4" "of these, the 4 most confident"

prints the difference in mAP of the first row to the second in every column that both have cells of, and its 95 %
interval over other people of the same kind: a bootstrap for the networks that were trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from diffreid_lightning.benchmark.comparison import Outcome, compare
from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.errors import UserError, shorten
from experiments.instruments.report import table
from experiments.instruments.script import run_script
from experiments.six_settings.tables import read_grid_folder


def differences(grid: Grid, outcomes: Sequence[Outcome], label: str, other: str) -> Iterator[list[object]]:
    """Yield a line for each column: setting, data, number of seeds, difference in mAP, interval over people.

    Args:
        grid: the cells are of.
        outcomes: finished cells with the precision of each query.
        label: of a row.
        other: label of the row it is compared with, over the seeds that both have.
    """
    pair = [each for each in outcomes if each.cell.initialization in (label, other)]
    for (row, column), entry in compare(grid, pair, other).entries.items():
        if row.label == label and "mAP" in entry.differences:
            found = entry.differences["mAP"]
            people = "" if found.people is None else "{:+.1f} to {:+.1f}".format(*found.people)
            yield [*column, found.alone.count, f"{found.alone.mean:+.1f}", people]


def _run(given: argparse.Namespace) -> None:
    grid = read_grid(["benchmark/miniperson", *given.config], given.root)
    outcomes = read_grid_folder(grid)
    lines = []
    for row, other in given.pair:
        found = list(differences(grid, outcomes, row, other))
        if not found:
            raise UserError(
                f"No cells of {row!r} and {other!r} can be compared.",
                looked_for="finished cells of both in the same setting, data and seed",
                found=f"finished cells of {shorten(dict.fromkeys(each.cell.initialization for each in outcomes), 20)}",
                remedy="give the labels as they are written in the grid, and --root if it is not the config's",
            )
        lines += [[f"{row} - {other}", *line] for line in found]
    print(table("Differences in mAP", ["rows", "setting", "data", "seeds", "difference", "over people"], lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", default=[], help="grids laid over benchmark/miniperson")
    parser.add_argument("--root", help="folder of the grid, if not the config's")
    parser.add_argument("--pair", nargs=2, action="append", required=True, metavar=("ROW", "OTHER"))
    sys.exit(run_script(_run, parser.parse_args()))
