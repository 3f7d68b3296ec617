"""Measure what it costs beside other work that threads spin while they wait for each other.

    python -m benchmarks.waiting [--busy 0 1 6] [--rounds 4] [--steps 20] [--threads 2]

prints a Markdown table: ms of forward and backward of timm's ``test_resnet`` (0.4 million parameters, 64×32, batches
of 64) on the CPU, without loading, for each ``GOMP_SPINCOUNT`` and beside so many processes that compute without end.
A process reads the variable when it starts, so every measurement is a process of its own; the rows alternate over the
rounds, and the table has their medians. It says something only where GNU's OpenMP library runs the threads, as in
torch's wheels for Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import timm
import torch

from benchmarks.step_clock import Clock, measure
from diffreid_lightning.cli.environment import WAIT_POLICY
from diffreid_lightning.errors import RunError, check_range
from experiments.instruments.script import run_script

NAMES = {"unset": "unset, torch's default", "0": "0", "1000": "**1000**, set by the command line", "10000": "10000"}
"""What is measured, by value of the variable, and what the table calls it."""

_BATCH = 64


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def time_steps(warm_up: int, steps: int) -> None:
    """Compute forward and backward again and again, and print the seconds of a step."""
    network = timm.create_model("test_resnet", num_classes=0).train()
    images = torch.randn(_BATCH, 3, 64, 32)
    clock, done = Clock(warm_up, steps), False
    while not done:
        network.zero_grad()
        network(images).square().mean().backward()
        done = clock.step_done()


def measure_all(busy: Sequence[int], rounds: int, words: Sequence[str]) -> dict[tuple[str, int], list[float]]:
    """Measure every value beside every number of busy processes, in turn; each result is printed.

    Raises:
        RunError: a measurement failed.
    """
    for name in WAIT_POLICY:
        os.environ.pop(name, None)  # what measurements inherit; this process has read it
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for value in NAMES:
            for count in busy:
                with busy_processes(count):
                    variables = {} if value == "unset" else {"GOMP_SPINCOUNT": value}
                    result = measure("benchmarks.waiting", value, words, variables)
                if "error" in result:
                    raise RunError("A measurement failed.", found=result["error"])
                found.setdefault((value, count), []).append(result["seconds"])
                print(f"{value}, beside {count} busy: {1000 * result['seconds']:.1f} ms a step", flush=True)
    return found


def table(seconds: Mapping[tuple[str, int], Sequence[float]]) -> list[str]:
    """Format the medians over the rounds as Markdown.

    Args:
        seconds: of a step, by value and number of busy processes.
    """
    counts = list(dict.fromkeys(count for _, count in seconds))
    heads = [f"beside {count} busy process{'es' * (count != 1)}" if count else "idle" for count in counts]
    lines = [f"| `GOMP_SPINCOUNT` | {' | '.join(heads)} |", "|---" * (1 + len(counts)) + "|"]
    for value in dict.fromkeys(value for value, _ in seconds):
        cells = [f"{1000 * statistics.median(seconds[value, count]):,.0f}" for count in counts]
        lines.append(f"| {NAMES[value]} | {' | '.join(cells)} |")
    return lines


def _run(given: argparse.Namespace) -> None:
    if given.row is not None:
        time_steps(given.warm_up, given.steps)
        return
    for option in ("rounds", "steps", "warm_up", "threads"):
        check_range(f"--{option.replace('_', '-')}", getattr(given, option), 1)
    check_range("--busy", min(given.busy), 0)
    words = [f"--threads={given.threads}", f"--warm-up={given.warm_up}", f"--steps={given.steps}"]
    print("\n".join(["", *table(measure_all(given.busy, given.rounds, words))]))


def main(args: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure how spinning threads slow down a step beside other work.")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 6], help="busy processes beside the measured one")
    parser.add_argument("--rounds", type=int, default=4, help="measurements behind each median")
    parser.add_argument("--warm-up", type=int, default=5, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=20, help="steps that do")
    parser.add_argument("--threads", type=int, default=2, help="of the measured process")
    parser.add_argument("--row", choices=list(NAMES), help=argparse.SUPPRESS)
    return run_script(_run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
