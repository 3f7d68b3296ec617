"""Time training steps of several programs, each in a process of its own, in turn over some rounds."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from operator import truediv
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Batch = TypeVar("Batch")


class Clock:
    """Print the seconds of a step, from the end of the warm-up to the end of the last batch.

    Args:
        warm_up: steps that do not count.
        steps: steps that do.
    """

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up = warm_up
        self.steps = steps
        self._done = 0
        self._begun = 0.0

    def step_done(self) -> bool:
        """Look at the clock after a step; return true after the last one, whose result is printed."""
        self._done += 1
        if self._done not in (self.warm_up, self.warm_up + self.steps):
            return False
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # steps are only queued there
        if self._done == self.warm_up:
            self._begun = time.perf_counter()
            return False
        print(json.dumps({"seconds": (time.perf_counter() - self._begun) / self.steps}), flush=True)
        return True


class StepClock(Callback):
    """Measure the steps of a trainer; see :class:`Clock`."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.clock = Clock(warm_up, steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the clock."""
        self.clock.step_done()


def clock_words(warm_up: int, steps: int) -> list[str]:
    """Return the flags that make ``fit`` measure so many steps and end, without a logger that is not installed."""
    return [
        *([] if find_spec("wandb") else ["--trainer.logger=false"]),
        "--trainer.max_epochs=1000",
        f"--trainer.max_steps={warm_up + steps}",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.callbacks+=benchmarks.step_clock.StepClock",
        f"--trainer.callbacks.warm_up={warm_up}",
        f"--trainer.callbacks.steps={steps}",
    ]


def repeat_epochs(loader: Iterable[Batch]) -> Iterable[Batch]:
    """Return the batches of one epoch after another; the loader is the same, so its processes go on."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def measure(module: str, row: str, words: Sequence[str], variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``python -m module --row row`` in a process of its own and an empty folder.

    Args:
        module: the benchmark.
        row: what it measures.
        words: more of its options.
        variables: of the environment, beside this process's.

    Returns:
        What it printed: its ``seconds``, or the ``error`` that kept it from being measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            **(variables or {}),
            "WANDB_MODE": "offline",
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
        }
        command = [sys.executable, "-m", module, "--row", row, *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not results:
        return {"error": f"it printed no result, exit code {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"}
    found: dict[str, Any] = results[0]
    return found


def measure_in_turn(module: str, names: Mapping[str, str], words: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Measure rows one after another, so many times over; one that fails is named and left out, each result printed.

    Args:
        module: the benchmark.
        names: of the rows, for people.
        words: of every row.
        rounds: how many.

    Returns:
        Seconds of a step by row, in the order of the rounds.
    """
    seconds: dict[str, list[float]] = {row: [] for row in names}
    for _ in range(rounds):
        for row in list(seconds):
            found = measure(module, row, words)
            if "error" in found:
                print(f"{names[row]}: {found['error']}")
                del seconds[row]
            else:
                seconds[row].append(found["seconds"])
                print(f"{names[row]}: {1000 * found['seconds']:.1f} ms a step", flush=True)
    return seconds


def table(seconds: Mapping[str, list[float]], names: Mapping[str, str], beside: str, batch: int) -> list[str]:
    """Format the rows as Markdown: times, images per second, and ratios to a row of the same round.

    Args:
        seconds: of a step, by row and round.
        names: of the rows.
        beside: the row that the others are compared with.
        batch: images in a step.
    """
    lines = [f"| | ms a step, median (least to most) | images/s | × {names[beside]} |", "|---|---|---|---|"]
    for row, values in seconds.items():
        others = seconds.get(beside, [])
        ratio = f"{statistics.median(map(truediv, values, others)):.2f}" if others else "–"
        middle = statistics.median(values)
        spread = f"{1000 * min(values):.0f} to {1000 * max(values):.0f}"
        lines.append(f"| {names[row]} | {1000 * middle:.0f} ({spread}) | {batch / middle:.1f} | {ratio} |")
    return lines
