"""LPE on MiniPerson, as a factorial: captions, identity tokens and prior images, each with and without.

    python -m experiments.personalization.lpe --base PIPELINE --world data/world --split val \
        --identities 40 --key-seeds 1
    python -m experiments.personalization.lpe --base PIPELINE --world data/world

The first chooses settings on people whom no table is about, the second makes the table with them. Every cell is trained
with the same number of steps and evaluations of the denoiser, and draws each person as often and with as many
evaluations. Its prompts ask for a view, the same number of each, in words.

1. Recognized: share of the images that the judge (:mod:`experiments.instruments.judge`) takes for the right person.
2. Near-copies: share of the images whose thumbnail is nearer to a real image than the filter allows.
3. KID to the people's real images, in features of ImageNet.
4. As asked: share of the views read as asked, by the classifier of :mod:`experiments.instruments.attribute_reader`.
5. Variety of one person's recognized images, in sets of four, over the people who have so many: entropy of the views
   and scenes that are read off them, Vendi score of their ImageNet features.
6. Nobody: images of prompts without a name; what a prior is for. How far each has moved from the base model's image of
   the same prompt and noise (cosine distance in features of ImageNet), KID to the base model's images and to held-out
   renders, and colors and view as asked.

Key rows differ from full LPE in one thing, or are plain DreamBooth; they have more seeds, and paired differences from
full LPE with 95 % intervals. Everything is kept in the work folder: a killed run goes on where it was. Machines share
the work by ``--earlier``: what stands in another's ``lpe-SPLIT.json`` is taken from there. What was measured
so far lies in ``experiments/personalization/results``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.generation.diversity import WordsOnly
from experiments.instruments.drift import MEASURES
from experiments.instruments.measures import measure
from experiments.instruments.pictures import content_key
from experiments.instruments.report import write_json
from experiments.instruments.script import run_script
from experiments.instruments.seed_tables import DRIFT, QUALITY, Results, differences_table, means_table
from experiments.personalization.bench import (
    Bench,
    add_options,
    add_parts,
    drift_of,
    kept,
    measure_cell,
    open_bench,
    own_part,
    results_file,
)
from experiments.personalization.cells import CELLS, FULL, Cell, is_key

VIEWS = str(Path(__file__).with_name("views.yaml"))


def planned_cells(key_seeds: int, other_seeds: int) -> list[tuple[Cell, int]]:
    """Cells and seeds in the order they are run: a whole table of the first seed before any second."""
    wanted = {cell: key_seeds if is_key(cell) else other_seeds for cell in CELLS}
    return [
        (cell, seed)
        for seed in range(max(key_seeds, other_seeds))
        for cell in sorted(CELLS, key=lambda cell: not is_key(cell))
        if seed < wanted[cell]
    ]


def reference_rows(bench: Bench) -> Results:
    """Real images, and the base model's images of nobody."""
    base_key = content_key(
        weights_hash(locate_pipeline(bench.base)), [bench.nobody, *MEASURES], bench.drawing.content, bench.fingerprint
    )
    drift = kept(bench.work / "results" / f"base-{base_key}.json", lambda: dict(drift_of(bench, bench.base)))
    return {
        "real images": {0: measure(bench.real, bench.real, bench.instruments)},
        "the base model": {0: {f"drift_{name}": value for name, value in drift.items()}},
    }


def report(results: Results, references: Results, bench: Bench) -> str:
    """The tables."""
    settings = bench.settings
    note = (
        f"\n{len(set(bench.real.keys))} people, {bench.drawing.images} images each at {bench.drawing.evaluations} "
        f"evaluations of the denoiser; {settings.steps} steps of {settings.images_per_step} images. Recognized: "
        f"{bench.instruments.nearest.way}."
    )
    tables = [means_table("LPE on MiniPerson", {**results, **references}, (*QUALITY, *DRIFT)), note]
    if len(results.get(FULL.label, {})) > 1:
        title = f"Paired differences from {FULL.label}, with 95 % intervals"
        several = {label: seeds for label, seeds in results.items() if len(seeds) > 1}
        tables.append(differences_table(title, several, FULL.label, (*QUALITY[:-1], *DRIFT)))
    return "\n".join(tables)


def run(given: argparse.Namespace) -> None:
    """Measure every cell that is not measured yet, print the tables, write ``lpe-SPLIT.json``."""
    cells = own_part(planned_cells(given.key_seeds, given.other_seeds), given)
    bench, file = open_bench(given, VIEWS), results_file("lpe", given)
    results: dict[str, dict[int, dict[str, object]]] = {}
    for cell, seed in cells:
        results.setdefault(cell.label, {})[seed] = measure_cell(bench, cell, WordsOnly(), seed, drift=True)
        write_json(file, {"cells": results})  # others can go on from here at any time
    references = reference_rows(bench)
    print(report(results, references, bench))
    write_json(file, {"cells": results, "references": references})


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="LPE on MiniPerson, as a factorial.")
    add_options(parser, "runs/experiments/stage1")
    parser.add_argument("--key-seeds", type=int, default=5, help="seeds of the key rows")
    parser.add_argument("--other-seeds", type=int, default=1, help="seeds of the other rows; 0 leaves them out")
    add_parts(parser)
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
