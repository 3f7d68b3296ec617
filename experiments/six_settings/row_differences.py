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

import numpy as np

from diffreid_lightning.benchmark.comparison import Outcome
from diffreid_lightning.benchmark.grid_file import read_grid
from diffreid_lightning.benchmark.paired_differences import interval_over_people
from diffreid_lightning.errors import UserError, shorten
from experiments.instruments.report import table
from experiments.instruments.script import run_script
from experiments.six_settings.tables import read_grid_folder


def differences(outcomes: Sequence[Outcome], row: str, other: str) -> Iterator[list[object]]:
    """Yield a line for each column: setting, data, number of seeds, difference in mAP, interval over people.

    Args:
        outcomes: finished cells with the precision of each query.
        row: label of a row.
        other: the row it is compared with, over the seeds that both have.
    """
    found = {(each.cell.initialization, each.cell.column, each.cell.seed): each for each in outcomes}
    for column in dict.fromkeys(each.cell.column for each in outcomes):
        pairs = {
            seed: (each, found[other, column, seed])
            for (label, place, seed), each in found.items()
            if label == row and place == column and (other, column, seed) in found
        }
        if not pairs:
            continue
        mean = np.mean([one.values["mAP"] - two.values["mAP"] for one, two in pairs.values()])
        ends = interval_over_people(
            {seed: one.people for seed, (one, _) in pairs.items()},
            {seed: two.people for seed, (_, two) in pairs.items()},
            0.95,
        )
        yield [*column, len(pairs), f"{mean:+.1f}", "" if ends is None else "{:+.1f} to {:+.1f}".format(*ends)]


def _run(given: argparse.Namespace) -> None:
    outcomes = read_grid_folder(read_grid(["benchmark/miniperson", *given.config], given.root))
    lines = []
    for row, other in given.pair:
        found = list(differences(outcomes, row, other))
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
