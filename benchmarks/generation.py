"""Measure generation speed: ``predict`` beside a loop over diffusers' pipeline, with the same model, prompts and seeds.

    python -m diffreid_lightning pipeline --config chains/tour --config chains/quick --until personalize
    python -m benchmarks.generation

prints a Markdown table of images per second, from prompts to JPEG files; loading the model does not count. The rows are
measured in turn, and every ratio is one of rows of the same round. On a machine with other work, ``--clock cpu`` with
``--threads 1`` counts the processor's time instead of the wall's. The loop is what users write: a person's prompts at a
time, the LoRA fused, with the same guidance scale as ``predict``, at every step:

- the model's own sampler in 50 steps, which is the pipeline's default, beside ``stages/generate``, which chooses its
  precision itself;
- the sampler and the 12 steps of ``stages/generate``, beside ``predict`` with guidance at every step as well, in the
  loop's precision.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from diffreid_lightning.devices import computes_bfloat16, fastest_device
from diffreid_lightning.errors import check_range
from diffreid_lightning.generation.diversity import ComposedGuidance, Diversity, NoDiversity
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.devices import device_name
from experiments.instruments.drawing import Drawing, draw_with
from experiments.instruments.known_people import choose_people
from experiments.instruments.pictures import SIZE
from experiments.instruments.report import table
from experiments.instruments.script import run_script
from experiments.instruments.stock_loop import StockLoop, stock_rate

STEPS, GUIDANCE, SCHEDULER = 12, 4.0, "DPMSolverMultistepScheduler"  # of stages/generate
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DEFAULT_STEPS = 50  # of StableDiffusionPipeline


class Pair(NamedTuple):
    """A way of ``predict`` and the loop that it is compared with."""

    loop: str  #: what the loop is called
    scheduler: str | None  #: its sampler; None is the model's own
    steps: int  #: and its steps
    ours: str  #: what the way of predict is called
    diversity: Diversity
    interval: tuple[float, float]  #: where prompts guide in it
    dtype: Literal["auto"] | None = None  #: its precision; None is the loop's


PAIRS = (
    Pair(
        f"the pipeline's defaults: its own sampler, {DEFAULT_STEPS} steps", None, DEFAULT_STEPS,
        "as in `stages/generate`", ComposedGuidance(), (0.0, 0.75), "auto",
    ),
    Pair(
        f"{SCHEDULER}, {STEPS} steps", SCHEDULER, STEPS,
        "as many evaluations: `NoDiversity`, guidance at every step", NoDiversity(), (0.0, 1.0),
    ),
)  # fmt: skip


class Rates(NamedTuple):
    """Images per second of a pair, by round."""

    loop: list[float]
    ours: list[float]


def measure(pair: Pair, given: argparse.Namespace, people: Manifest, work: Path) -> tuple[float, float]:
    """Measure a pair once, ``predict`` first, whose manifest says what the loop draws.

    Returns:
        Images per second of the loop and of predict.
    """
    model = given.root / "personalize" / "fit-001" / "personalized"
    module = GenerationModule(
        model=str(model),
        image_size=SIZE,
        scheduler=SCHEDULER,
        steps=STEPS,
        guidance=GUIDANCE,
        guidance_interval=pair.interval,
        diversity=pair.diversity,
        dtype=pair.dtype or given.dtype,
    )
    drawing = Drawing(images=given.together, batch_size=given.batch_size, dtype=given.dtype)
    clock = CLOCKS[given.clock]
    drawn = draw_with(module, people, drawing, 0, work, clock)
    loop = StockLoop(pair.steps, GUIDANCE, pair.scheduler, given.dtype)
    return stock_rate(model, drawn.manifest, loop, work / "loop", clock), drawn.images_per_second


def report(measured: Mapping[Pair, Rates], together: int) -> str:
    """The table."""
    rows = []
    for pair, rates in measured.items():
        ratio = [ours / loop for ours, loop in zip(rates.ours, rates.loop, strict=True)]
        evaluations = pair.diversity.evaluations(STEPS, GUIDANCE, pair.interval)
        rows.append((f"loop, {pair.loop}", 2 * pair.steps, _spread(rates.loop), ""))
        rows.append((f"**predict**, {pair.ours}", evaluations, _spread(rates.ours), _spread(ratio)))
    columns = ["", "evaluations per image", "images/s", "× the loop above"]
    rounds = len(next(iter(measured.values())).loop)
    title = (
        f"Generation, {together} images of a person at a time in the loop; medians of {rounds} rounds (least to most)"
    )
    return table(title, columns, rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def run(given: argparse.Namespace) -> None:
    """Measure in turn and print the table.

    Raises:
        UserError: model or people are missing, or there are not so many people.
    """
    for name in ("images", "together", "rounds", "batch_size"):
        check_range(f"--{name}", getattr(given, name), 1)
    people = choose_people(Manifest.read(given.root / "caption"), "train", -(-given.images // given.together))
    measured = {pair: Rates([], []) for pair in PAIRS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for pair, rates in measured.items():
                work = Path(folder) / "round"
                shutil.rmtree(work, ignore_errors=True)
                loop, ours = measure(pair, given, people, work)
                rates.loop.append(loop)
                rates.ours.append(ours)
                print(f"round {number + 1} of {given.rounds}: {loop:.2f} and {ours:.2f} images/s", flush=True)
    own = "bfloat16" if computes_bfloat16(fastest_device()) else "float32"
    print(f"{device_name()}, {given.threads} threads, {given.clock} clock, torch {torch.__version__}")
    print(f"{given.dtype}; {own} in predict as in stages/generate")
    print(report(measured, given.together))


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Speed of generation beside a loop over diffusers' pipeline.")
    parser.add_argument("--root", type=Path, default=Path("runs/quick"), help="of a chain that has personalized")
    parser.add_argument("--images", type=int, default=64, help="by every row in a round")
    parser.add_argument("--together", type=int, default=4, help="images of a person, which the loop draws at a time")
    parser.add_argument("--batch-size", type=int, default=32, help="of predict")
    parser.add_argument("--rounds", type=int, default=5, help="all rows in turn")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: the processor's time, of all threads")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the loops and of the last row",
    )
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
