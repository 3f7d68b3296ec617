"""Strategies of Diversity Injection on top of full LPE, at equal evaluations of the denoiser.

    python -m experiments.personalization.injection --base PIPELINE --world data/world --split val \
        --identities 40 --seeds 1
    python -m experiments.personalization.injection --base PIPELINE --world data/world

Each strategy takes as many sampler steps as its evaluations per step leave it of the same budget; the table says how
many. The columns are those of :mod:`experiments.personalization.lpe`; asked for are view, place and light of the
packaged vocabulary ``rendered`` (poses are not read), by the strategies that ask at all. Models are shared with
:mod:`experiments.personalization.lpe` in the same work folder; a killed run goes on where it was. Machines share the
work by ``--earlier``: what stands in another's ``injection-SPLIT.json`` is taken from there. What was measured so far
lies in ``experiments/personalization/results``.
"""

from __future__ import annotations

import argparse
import sys

from diffreid_lightning.generation.diversity import (
    ComposedGuidance,
    Diversity,
    GuidanceJitter,
    NoDiversity,
    SDEdit,
    WordsOnly,
)
from experiments.instruments.measures import measure
from experiments.instruments.report import write_json
from experiments.instruments.script import run_script
from experiments.instruments.seed_tables import QUALITY, Column, Results, differences_table, means_table
from experiments.personalization.bench import (
    Bench,
    add_options,
    add_parts,
    measure_cell,
    open_bench,
    own_part,
    results_file,
)
from experiments.personalization.cells import FULL

NONE = "NoDiversity"
_COST = (Column("steps", "steps", digits=0), Column("evaluations", "evaluations", digits=0))


def strategies(attribute_weight: float, identity_weight: float, window: float, strength: float) -> dict[str, Diversity]:
    """The rows of the table.

    Args:
        attribute_weight: of the attributes' prompt in composed guidance.
        identity_weight: of the identity's prompt beside it.
        window: share of the steps in which it guides.
        strength: of SDEdit.
    """
    rows: list[Diversity] = [
        NoDiversity(),
        WordsOnly(),
        ComposedGuidance(attribute_weight, identity_weight, (0.0, window)),
        GuidanceJitter(),
        SDEdit(strength),
    ]
    return {type(row).__name__: row for row in rows}


def report(results: Results, bench: Bench) -> str:
    """The tables, and by how much more the images of a strategy differ than those without one."""
    real = {"real images": {0: measure(bench.real, bench.real, bench.instruments)}}
    tables = [means_table("Diversity Injection on MiniPerson", {**results, **real}, (*_COST, *QUALITY))]
    if NONE in results:  # a process that has a part of the cells may lack it
        title = f"Paired differences from {NONE}, with 95 % intervals where there are several seeds"
        tables.append(differences_table(title, results, NONE, QUALITY[:-1]))
    return "\n".join(tables)


def run(given: argparse.Namespace) -> None:
    """Measure every strategy that is not measured yet, print the tables, write ``injection-SPLIT.json``."""
    rows = strategies(given.attribute_weight, given.identity_weight, given.window, given.strength)
    cells = own_part([(seed, label) for seed in range(given.seeds) for label in rows], given)
    bench, file = open_bench(given, "rendered"), results_file("injection", given)
    results: dict[str, dict[int, dict[str, object]]] = {}
    for seed, label in cells:
        results.setdefault(label, {})[seed] = measure_cell(bench, FULL, rows[label], seed, label=label)
        write_json(file, {"strategies": results})
    print(report(results, bench))


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Strategies of Diversity Injection on MiniPerson.")
    add_options(parser, "runs/experiments/stage1")
    add_parts(parser)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of every row")
    parser.add_argument("--attribute-weight", type=float, default=3.0, help="of composed guidance")
    parser.add_argument("--identity-weight", type=float, default=1.0, help="beside it")
    parser.add_argument("--window", type=float, default=0.3, help="of composed guidance: share of the steps")
    parser.add_argument("--strength", type=float, default=0.7, help="of SDEdit: share of the steps that are taken")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
