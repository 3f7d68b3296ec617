"""Measure a few-step student beside the personalized model that it was distilled from.

    python -m diffreid_lightning fit --config stages/distill
    python -m experiments.generator.few_step --root runs/tour --student runs/tour/distill/fit-001/distilled --threads 1

``--root`` is a finished chain, as for :mod:`experiments.generator.guidance`, which explains the columns; seconds are of
the processor's time, for machines with other work. All rows draw the same people with the same noise. Needs
the extra ``imagenet``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from experiments.generator.guidance import HEADS, Setting, add_options, measure_setting, open_bench, row_of
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script


def settings(solver_steps: int) -> list[tuple[str, Setting]]:
    """Return the settings that are compared, each with ``model`` or ``student``."""
    default = Setting(end=0.75)
    words = replace(default, strategy="WordsOnly")
    few = [replace(words, steps=steps) for steps in (8, 4)]
    plain = [replace(words, guidance=1.0, end=1.0, steps=steps) for steps in (8, 4)]
    student = [replace(each, scheduler="LCMScheduler", solver_steps=solver_steps) for each in plain]
    nameless = [replace(each, strategy="NoDiversity") for each in student]
    return [
        *(("model", each) for each in (default, words, *few, *plain)),
        *(("student", each) for each in (*student, *nameless)),
    ]


def main(argv: list[str] | None = None) -> int:
    """Parse the options, measure every setting, print the table and write table and JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.few_step", description=__doc__.split("\n")[0]
    )
    add_options(parser, "runs/experiments/few_step")
    parser.add_argument("--student", type=Path, required=True, help="folder that stages/distill has written")
    parser.add_argument("--solver-steps", type=int, default=20, help="model.solver_steps of the distillation")
    return run_script(run, parser.parse_args(argv))


def run(given: argparse.Namespace) -> None:
    """Do what the options ask for."""
    bench = open_bench(given)
    found = []
    for model, setting in settings(given.solver_steps):
        drawing = bench if model == "model" else replace(bench, model=str(given.student))
        row = measure_setting(drawing, setting)
        found.append({"model": model, **row})
        print(" | ".join([model, *row_of(setting, row)]), flush=True)
    rows = [[each["model"], *row_of(Setting(**each["setting"]), each)] for each in found]
    text = table("A few-step student beside its teacher", ("", *HEADS), rows)
    print(text)
    (given.work / "few_step.md").write_text(text + "\n", encoding="utf-8")
    write_json(given.work / "few_step.json", {"settings": found})


if __name__ == "__main__":
    sys.exit(main())
