"""Measure what bfloat16 changes in generated images, beside float32, and the time that it saves.

    python -m experiments.generator.precision --root runs/tour --identities 64 --images 8 --threads 1

People, noise, requests and judges are those of :mod:`experiments.generator.guidance`; strategy, steps and guidance are
the defaults of ``stages/generate``. Differences are paired by person, with intervals over people.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace

from experiments.generator.guidance import add_options, measure_setting, open_bench
from experiments.generator.strategies import DEFAULT, compare
from experiments.instruments.devices import device_name
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script

_HEADS = (
    "precision", "s / image", "recognized, %", "to float32", "KID x 1000", "to float32", "Vendi",
)  # fmt: skip


def run(given: argparse.Namespace) -> None:
    """Measure both precisions and write the table and its numbers."""
    bench = open_bench(given)
    base = measure_setting(bench, DEFAULT)
    rows = [compare(measure_setting(bench, replace(DEFAULT, dtype=dtype)), base) for dtype in ("float32", "bfloat16")]
    lines = [
        [
            row["setting"]["dtype"],
            f"{row['seconds']:.3f}",
            "{:.1f} ({:.1f} to {:.1f})".format(*(100 * each for each in (row["recognized"], *row["interval"]))),
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * each for each in row["recognized_difference"])),
            "{:.0f} ({:.0f} to {:.0f})".format(*(1000 * each for each in (row["kid"], *row["kid_interval"]))),
            "{:+.0f} ({:+.0f} to {:+.0f})".format(*(1000 * each for each in row["kid_difference"])),
            f"{row['vendi']:.2f}",
        ]
        for row in rows
    ]
    print(f"{device_name()}, {given.threads} threads")
    print(table(f"{base['images']} images of {len(base['shares'])} people, {DEFAULT}", _HEADS, lines))
    write_json(given.work / "precision.json", {"default": asdict(DEFAULT), "settings": rows})


def main(argv: list[str] | None = None) -> int:
    """Measure float32 and bfloat16."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generator.precision", description=__doc__.split("\n")[0]
    )
    add_options(parser, "runs/experiments/precision")
    return run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
