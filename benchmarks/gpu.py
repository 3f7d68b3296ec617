"""Measure everything that needs a GPU, one after another, in about a quarter of an hour.

    python -m benchmarks.gpu [--out runs/benchmarks/gpu] [--only generation] [--list]

Every measurement is a command of its own, which can be run alone as well; ``--list`` prints them. Each has a limit of
time. What it prints goes into ``report.md`` at once, so that a run that is cut short keeps what it has; one that fails
or takes too long is named there, and the next one starts. Networks of Stable Diffusion 1.5 have random weights, and all
images are those of the package, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from diffreid_lightning.errors import UserError
from experiments.instruments.script import run_script


class Measurement(NamedTuple):
    """A command with a limit."""

    name: str
    module: str
    words: str
    seconds: int  #: limit


MEASUREMENTS = (
    Measurement("generation", "benchmarks.generation_gpu", "", 60),
    Measurement("generation, compiled", "benchmarks.generation_gpu", "--compile", 130),
    Measurement(
        "generation, compiled, large batches", "benchmarks.generation_gpu", "--compile --batch-size 256 --rounds 3", 130
    ),
    Measurement(
        "generation, fewer evaluations",
        "benchmarks.generation_gpu",
        "--compile --batch-size 256 --rounds 3 --steps 15 --interval 0 0.75",
        130,
    ),
    Measurement("captions", "diffreid_lightning", "pipeline --until caption", 60),
    Measurement(
        "personalization",
        "benchmarks.personalization",
        "--model sd15 --height 256 --width 128 --batch 32 --precision bf16-mixed --compile --steps 40 --warm-up 10 "
        "--rounds 1",
        180,
    ),
    Measurement(
        "pre-training",
        "benchmarks.training",
        "--batch 128 --precision bf16-mixed --workers 14 --warm-up 30 --steps 60 --rounds 1",
        120,
    ),
    Measurement(
        "pre-training, compiled",
        "benchmarks.training",
        "--batch 128 --precision bf16-mixed --compile --workers 14 --warm-up 30 --steps 60 --rounds 1",
        180,
    ),
    Measurement("clustering", "benchmarks.clustering", "--device cuda --dense 0 --large 0", 90),
)


def measure(each: Measurement, report: Path) -> bool:
    """Run a measurement and append what it prints to the report; return whether it succeeded."""
    command = [sys.executable, "-m", each.module, *each.words.split()]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=each.seconds, check=False)
        succeeded, printed, errors = done.returncode == 0, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        succeeded, printed, errors = False, _text(error.stdout), f"more than {each.seconds} s"
    text = f"## {each.name}\n\n`python -m {each.module} {each.words}`, {time.monotonic() - began:.0f} s\n\n"
    text += printed.strip() + "\n\n"
    if not succeeded:
        text += f"Not finished: {errors.strip()[-2000:]}\n\n"
    with report.open("a", encoding="utf-8") as stream:
        stream.write(text)
    print(text, flush=True)
    return succeeded


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def run(given: argparse.Namespace) -> None:
    """Run the measurements.

    Raises:
        UserError: there is no GPU, or one of them failed.
    """
    chosen = [each for each in MEASUREMENTS if not given.only or any(name in each.name for name in given.only)]
    if given.list:
        for each in chosen:
            print(f"# {each.name}, at most {each.seconds} s\npython -m {each.module} {each.words}")
        return
    if not torch.cuda.is_available():
        raise UserError(
            "There is no GPU here, so nothing is measured.",
            looked_for="a CUDA device",
            found="none that torch can use",
            remedy="run this on a machine with one; --list prints the commands",
        )
    given.out.mkdir(parents=True, exist_ok=True)
    report = given.out / "report.md"
    failed = [each.name for each in chosen if not measure(each, report)]
    if failed:
        raise UserError(f"Not finished: {', '.join(failed)}.", looked_for="results of all", found=f"see {report}")


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure everything that needs a GPU.")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gpu"), help="folder of report.md")
    parser.add_argument("--only", action="append", default=[], help="measurements with this in their names")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
