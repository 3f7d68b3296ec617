"""``python -m tests.fuzz``: damage inputs for a while, and say which of them the commands do not answer as they must.

A trial copies what a command needs, damages a file of it and runs the command in a process of its own. It must end with
exit code 0, 1 or 2 in its time, without a traceback, write only to the folders that it is given, keep what is there
when it refuses, and execute no pickle. Trial N of seed S is the same one each time::

    python -m tests.fuzz --seconds 3600 --seed 7     # longer, with other inputs
    python -m tests.fuzz --seed 7 --only 123         # one trial again, with all it says; its folder is kept
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process forks safely while it has one thread
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as the command line has it before anything is imported
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing damaged leaves this machine
os.environ["PYTHONWARNINGS"] = "ignore"

Command = Callable[[list[str]], int]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60, help="how long inputs are tried, once the world is there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", default=[], help="run these trials alone")
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    parser.add_argument("--target", action="append", default=[], help="only targets whose names begin so")
    parser.add_argument("--limit", type=float, default=60, help="seconds that a trial may take")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--world", type=Path, help="a folder to keep the world in, or to find it in")
    options = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    names = [target.name for target in TARGETS]
    unknown = [start for start in options.target if not any(name.startswith(start) for name in names)]
    if unknown:
        parser.error(f"no target begins with {' or '.join(unknown)}; there are {', '.join(sorted(set(names)))}")
    return options


def fuzz(world: Path, options: argparse.Namespace, end: float, command: Command) -> list[object]:
    """Run trials until the time is over.

    Args:
        world: the working folder of the world.
        options: of the command line.
        end: when no further trial is begun, by the monotonic clock.
        command: runs words and returns the exit code.

    Returns:
        How those ended that ended wrongly.
    """
    from tests.fuzz.trial import Trial

    wrong: list[object] = []
    codes: Counter[int] = Counter()
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir=world.parent))
    numbers = iter(options.only) if options.only else iter(range(options.first, sys.maxsize))
    plan = _plan(numbers, options)
    running: list[Trial] = []
    over = False
    while running or not over:
        while len(running) < options.jobs and not over:
            chosen = None if time.monotonic() > end and not options.only else next(plan, None)
            over = chosen is None
            if chosen is not None:
                number, target = chosen
                running.append(Trial(number, options.seed, target, world, place / f"{number:06d}", command))
        for trial in list(running):
            result = trial.poll(options.limit)
            if result is None:
                continue
            running.remove(trial)
            codes[result.code] += 1
            if result.wrong:
                wrong.append(result)
                print(
                    f"{_replay(options, result.number)}: {result.target}: {result.damage}: {result.wrong}", flush=True
                )
            if options.only:
                print(f"{result.said}\n{result.target}: {result.damage}\nexit code {result.code}: {trial.folder}")
            else:
                shutil.rmtree(trial.folder, ignore_errors=True)
        time.sleep(0.01)
    if not options.only:
        shutil.rmtree(place, ignore_errors=True)
    ends = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
    print(f"{codes.total()} inputs ({ends}), {len(wrong)} not answered as they must be (seed {options.seed})")
    return wrong


def _plan(numbers: Iterator[int], options: argparse.Namespace) -> Iterator[tuple[int, object]]:
    """Draw a target for each number: often those that are cheap or that much is read by."""
    from tests.fuzz.targets import TARGETS

    weights = [target.often for target in TARGETS]
    for number in numbers:
        target = random.Random(f"{options.seed} {number} target").choices(TARGETS, weights)[0]
        if not options.target or target.name.startswith(tuple(options.target)):
            yield number, target


def _replay(options: argparse.Namespace, number: int) -> str:
    return f"--seed {options.seed} --only {number}"


def make_world(folder: Path) -> Path:
    """Build the world below a folder, by two processes; return its working folder."""
    from tests.fuzz import world

    work = folder / "work"
    work.mkdir(parents=True)
    _in_a_child(folder, work, world.build_inputs)()
    ends = [_in_a_child(folder, work, build) for build in (world.build_runs, world.build_stages)]
    for end in ends:
        end()
    return work


def _in_a_child(folder: Path, work: Path, build: Callable[[], None]) -> Callable[[], None]:
    """Begin to build in a forked process; the answer waits for its end."""
    log = folder / f"{build.__name__}.log"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.chdir(work)
            build()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait() -> None:
        _, status = os.waitpid(process, 0)
        if status:
            sys.exit(f"the world could not be built: {build.__name__}\n{log.read_text(errors='replace')[-3000:]}")

    return wait


def main() -> int:
    """Build the world, damage it for a while; 1 if something was found."""
    started = time.monotonic()
    options = arguments()
    import torch

    from diffreid_lightning.cli import main as command
    from tests.fuzz.world import stages_here

    torch.set_num_threads(1)
    logging.raiseExceptions = False
    sys.argv = ["diffreid_lightning"]
    stages_here()
    folder = (options.world or Path(tempfile.mkdtemp(prefix="fuzz-"))).absolute()
    work = folder / "work"
    if not work.is_dir():
        work = make_world(folder)
    print(f"the world is there after {time.monotonic() - started:.0f} s", flush=True)
    try:
        return int(bool(fuzz(work, options, time.monotonic() + options.seconds, lambda words: command(words))))
    finally:
        if options.world is None and not options.only:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
