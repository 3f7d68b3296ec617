"""Measure everything that needs a GPU, one after another, in about a quarter of an hour.

    python -m benchmarks.gpu [--out runs/benchmarks/gpu] [--only generation] [--list]

Every measurement is a command of its own, which can be run alone as well; ``--list`` prints them. Each has a limit of
time. What it prints is in ``report.md`` when it ends, so that a run that is cut short keeps what it has; one that fails
or takes too long is named there, and the next one starts. Networks of Stable Diffusion 1.5 have random weights, and all
images are those of the package, so nothing is downloaded. Needs the package's own requirements (diffusers, peft,
omegaconf and jsonargparse among them; W&B may be missing) and what ``tools`` and ``experiments`` import, but no extra.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from diffreid_lightning.errors import UserError
from experiments.instruments.devices import device_name, require_gpu
from experiments.instruments.script import run_script


class Measurement(NamedTuple):
    """A command with a limit."""

    name: str
    module: str
    words: str
    seconds: int  #: limit


_RANDOM = "--work runs/benchmarks/gpu/weights"
_LARGE = f"{_RANDOM} --compile --batch-size 256 --rounds 3"
_SD15 = f"{_RANDOM} --model sd15 --height 256 --width 128 --batch 32 --workers 14 --precision bf16-mixed"
#: 45 steps hold the first epoch, in which images are decoded that are kept afterwards
_STEPS = "--batch 128 --precision bf16-mixed --workers 14 --warm-up 45 --steps 60 --rounds 1"

MEASUREMENTS = (
    Measurement("generation", "benchmarks.generation_gpu", _RANDOM, 80),
    Measurement("generation, compiled", "benchmarks.generation_gpu", f"{_RANDOM} --compile", 110),
    Measurement("generation, compiled, large batches", "benchmarks.generation_gpu", _LARGE, 110),
    Measurement(
        "generation, fewer evaluations", "benchmarks.generation_gpu", f"{_LARGE} --steps 15 --interval 0 0.75", 110
    ),
    Measurement("pre-training", "benchmarks.training", _STEPS, 100),
    Measurement("pre-training, compiled", "benchmarks.training", f"{_STEPS} --compile", 130),
    Measurement("captions for personalization", "diffreid_lightning", "pipeline --until caption", 50),
    Measurement(
        "personalization", "benchmarks.personalization", f"{_SD15} --compile --warm-up 15 --steps 30 --rounds 1", 150
    ),
    Measurement("clustering", "benchmarks.clustering", "--device cuda --dense 0 --large 0", 60),
)


def measure(each: Measurement, report: Path) -> bool:
    """Run a measurement and append what it prints to the report; return whether it succeeded."""
    command = [sys.executable, "-m", each.module, *each.words.split()]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(each.seconds)
            failure = "" if code == 0 else f"Not finished: exit code {code}."
        except subprocess.TimeoutExpired:
            failure = f"Not finished: more than {each.seconds} s."
        finally:  # whatever it started must not run beside the next one
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        printed = output.read().strip()
    kept = printed if not failure else printed[-4000:]
    text = f"## {each.name}\n\n`python -m {each.module} {each.words}`, {time.monotonic() - began:.0f} s\n\n"
    text += "\n\n".join(filter(None, (kept, failure))) + "\n\n"
    with report.open("a", encoding="utf-8") as stream:
        stream.write(text)
    print(text, flush=True)
    return not failure


def choose(names: Sequence[str]) -> list[Measurement]:
    """Return the measurements with one of these words in their names, all without a word.

    Raises:
        UserError: a word is in none.
    """
    for name in names:
        if not any(name in each.name for each in MEASUREMENTS):
            raise UserError(
                f"No measurement has {name!r} in its name.",
                looked_for="a part of a name",
                found=", ".join(each.name for each in MEASUREMENTS),
            )
    return [each for each in MEASUREMENTS if not names or any(name in each.name for name in names)]


def run(given: argparse.Namespace) -> None:
    """Run the measurements.

    Raises:
        UserError: there is no GPU, or one of them failed.
    """
    chosen = choose(given.only)
    if given.list:
        for each in chosen:
            print(f"# {each.name}, at most {each.seconds} s\npython -m {each.module} {each.words}")
        return
    require_gpu("run this on a machine with one; --list prints the commands")
    given.out.mkdir(parents=True, exist_ok=True)
    report = given.out / "report.md"
    with report.open("a", encoding="utf-8") as stream:
        stream.write(f"# {time.strftime('%Y-%m-%d %H:%M')}: {device_name()}, torch {torch.__version__}\n\n")
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
