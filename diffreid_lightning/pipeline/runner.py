"""Plan and run a chain: skip finished stages, continue interrupted ones, print the summary."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import make_folder
from diffreid_lightning.pipeline.earlier_outputs import Aside
from diffreid_lightning.pipeline.fingerprints import forget_hashes
from diffreid_lightning.pipeline.graph import Chain, Stage
from diffreid_lightning.pipeline.stage_attempt import Attempt, variables
from diffreid_lightning.pipeline.stage_jobs import StageJobs, default_jobs
from diffreid_lightning.pipeline.stage_plan import Planned, current, older, plan, plan_one, refuse_untestable
from diffreid_lightning.pipeline.stage_process import run_logged
from diffreid_lightning.pipeline.summary import print_report
from diffreid_lightning.storage import locks

_PATIENCE = 15.0  # seconds; a DataLoader's workers look for a killed parent every five


def run_chain(chain: Chain, stages: tuple[Stage, ...], dry_run: bool, jobs: int | None) -> None:
    """Print the plan and run it.

    Args:
        chain: the chain.
        stages: which of its stages; what lies before them must have been run.
        dry_run: stop after the plan, and the commands it consists of.
        jobs: how many stages may run at once; None for what suits the machine.

    Raises:
        UserError: a stage refused its input (exit code 2) or will have nothing to test on, or an earlier stage is
            missing.
        RunError: a stage failed.
    """
    console = Console(highlight=False, markup=False)
    forget_hashes()  # a notebook runs many chains in one process, and things change between them
    planned = plan(chain, stages)
    _print_plan(console, chain, planned)
    refuse_untestable(chain, planned)
    outdated = ", ".join(older(chain, stages))
    if outdated:
        console.print(f"read as they are, though changed or made with other settings: {outdated}", soft_wrap=True)
    if dry_run:
        _print_commands(console, chain, planned)
        return
    with lock_folder(chain.root) as lock:
        aside = Aside(chain.root, [stage.name for stage in chain.stages])
        parallel = default_jobs() if jobs is None else jobs
        if parallel > 1:
            StageJobs(chain, parallel, aside, lock, console).run(stages)
        else:
            _run_in_order(chain, stages, aside, console)
    print_report(console, chain, current(chain, stages))


def _run_in_order(chain: Chain, stages: tuple[Stage, ...], aside: Aside, console: Console) -> None:
    """Run one stage after another, and show what each prints."""
    for number, stage in enumerate(stages, 1):
        if plan_one(chain, stage).state in ("done", "left out"):
            continue
        console.rule(f"{stage.name} ({number} of {len(stages)})")
        attempt = Attempt.begin(chain, stage, aside, console)
        code = run_logged(attempt.words(), chain.environment, attempt.log)
        console.print(attempt.end(code))


def _print_plan(console: Console, chain: Chain, planned: list[Planned]) -> None:
    console.print(f"{chain.root}: {len(planned)} {'stage' if len(planned) == 1 else 'stages'}", soft_wrap=True)
    width = max(len(stage.name) for stage, _, _ in planned)
    for stage, state, why in planned:
        console.print(f"  {stage.name:<{width}}  {state:<8}  {why}", soft_wrap=True)


def _print_commands(console: Console, chain: Chain, planned: list[Planned]) -> None:
    """Print the stages as shell commands."""
    console.print("\nThe same by hand:")
    console.print(f"  export {variables(chain)}", soft_wrap=True)
    for stage, state, _ in planned:
        if state != "left out":
            console.print(f"  python -m diffreid_lightning {shlex.join(stage.words)}", soft_wrap=True)


@contextlib.contextmanager
def lock_folder(root: Path) -> Iterator[locks.FileLock]:
    """Lock a chain's folder against a second run; the lock ends with the process.

    Raises:
        UserError: one is at work there, or there can be no folder.
    """
    make_folder(root)
    # A stage inherits the lock: while one survives a killed chain, no second run starts it. Its own
    # workers have it too, and outlive it by seconds.
    file = root / ".lock"
    lock = locks.take(file, inheritable=True)
    if lock is None:
        print(f"Another run is at work in {root}; waiting {_PATIENCE:g} s for it to end.", file=sys.stderr, flush=True)
        lock = locks.take(file, inheritable=True, patience=_PATIENCE)
    if lock is None:
        raise UserError(
            f"Another run is at work in {root}.",
            remedy="wait for it, or give this one another folder",
        )
    try:
        yield lock
    finally:
        lock.release()
