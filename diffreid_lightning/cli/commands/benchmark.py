"""Run ``benchmark``: a grid of initializations, settings, datasets and seeds, and one table of the results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffreid_lightning.cli.commands.parser import CommandParser, table_console
from diffreid_lightning.errors import UserError, check_workers

if TYPE_CHECKING:
    from diffreid_lightning.benchmark.grid_entries import Grid
    from diffreid_lightning.benchmark.job_records import Workplace
    from diffreid_lightning.benchmark.jobs import Job

DEFAULT = "benchmark/quick"
_USAGE = "python -m diffreid_lightning benchmark --config NAME"
_DESCRIPTION = (
    "Run a grid: each cell is an ordinary fit or test in a run folder of its own. Finished cells are skipped, "
    "interrupted ones go on, failed ones are listed and tried again by the next start. In the end one table is printed "
    "and written to ROOT/results."
)
_INSTEAD = ("list", "dry_run", "table", "slurm", "sweep")  # of running the cells here


def benchmark_command(words: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0; 1 where a cell failed.

    Raises:
        UserError: the options or the grid cannot be used.
    """
    given = _parse(words)
    # Import late: --help should not wait for pyarrow.
    from diffreid_lightning.benchmark import job_records
    from diffreid_lightning.benchmark.expansion import expand
    from diffreid_lightning.benchmark.grid_file import read_grid
    from diffreid_lightning.benchmark.job_records import Workplace
    from diffreid_lightning.benchmark.jobs import choose
    from diffreid_lightning.benchmark.planning import refuse_unvalidated

    job_records.forget()  # a notebook runs several in one process, and things change between them
    grid = read_grid(given.config, given.root)
    jobs = expand(grid)
    place = Workplace(grid.root, {label: dataset.path for label, dataset in grid.datasets.items()})
    asked = _Asked(grid, given, jobs, choose(jobs, *given.only), place)
    if not given.list and not given.table:
        refuse_unvalidated(asked.wanted, place)
    for name, action in (
        ("list", asked.list_jobs),
        ("dry_run", asked.plan),
        ("table", asked.report),
        ("slurm", asked.submit),
        ("sweep", asked.write_sweep),
    ):
        if getattr(given, name):
            return action()
    return asked.run()


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(_USAGE, _DESCRIPTION)
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"the grid: a YAML file or a packaged one (default: {DEFAULT}); several are laid over each other",
    )
    parser.add_argument("--root", metavar="DIR", help="folder of everything that is made, in place of the config's")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cells whose names match, with * and ?, and what they need; see --list; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time; each gets one GPU")
    parser.add_argument("--list", action="store_true", help="print the cells with their commands, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print what is to do and how long it may take")
    parser.add_argument("--table", action="store_true", help="print and write the table of what is done so far")
    parser.add_argument("--slurm", action="store_true", help="submit the cells through submitit (extra slurm)")
    parser.add_argument("--sweep", metavar="FILE", help="write a W&B sweep file over the cells")
    given = parser.parse_args(list(words))
    given.config = given.config or [DEFAULT]
    for name in ("root", "only", "sweep"):
        if getattr(given, name) == "":
            raise UserError(f"--{name} is empty.", remedy="give it a value, or leave it out")
    check_workers("--jobs", given.jobs, 1)
    several = [f"--{name.replace('_', '-')}" for name in _INSTEAD if getattr(given, name)]
    if len(several) > 1:
        raise UserError(f"{' and '.join(several)} do not go together.", remedy="give one of them")
    return given


@dataclass(frozen=True)
class _Asked:
    """A grid, and what the command line asks for.

    Args:
        grid: the grid.
        given: the options.
        jobs: all its jobs by name.
        wanted: those that ``--only`` leaves.
        place: their folders.
    """

    grid: Grid
    given: argparse.Namespace
    jobs: Mapping[str, Job]
    wanted: Mapping[str, Job]
    place: Workplace

    def list_jobs(self) -> int:
        """Print names, what they come after, and commands."""
        from diffreid_lightning.benchmark.job_runner import shell_command

        for job in self.wanted.values():
            mark = "  †" if job.cell is not None and job.cell.sees_target else ""
            needs = f"  (after {', '.join(job.needs)})" if job.needs else ""
            _say(f"{job.name}{mark}{needs}\n    {shell_command(job, self.place)}")
        return 0

    def plan(self) -> int:
        """Print the state of each job, and an estimate of what is left."""
        states = self.place.states(self.wanted, self.jobs)
        left = self.place.left(self.wanted, states)
        missing = {name: self.place.missing(job) for name, job in left.items()}
        for name, state in states.items():
            shown = state if name in left or state == "done" else "not needed"
            _say(f"{'data missing' if shown == 'to do' and missing[name] else shown:<12} {name}")
        preparations = sum(job.cell is None for job in left.values())
        _say(f"\n{len(left)} of {len(self.wanted)} jobs to do, {preparations} of them preparations")
        for label in sorted({label for labels in missing.values() for label in labels}):
            _say(f"data missing: no dataset can be read at {self.place.paths[label]}, which is {label!r} of the grid")
        self._estimate(left)
        return 0

    def _estimate(self, left: Mapping[str, Job]) -> None:
        from diffreid_lightning.benchmark.estimate import estimate

        total, unknown = 0.0, ["chains"]
        for each in estimate(self.grid, left):
            speed = each.speed
            if each.hours is None or speed is None or not each.images:
                unknown += [each.setting] if each.trainings else []
                continue
            total += each.hours
            measured = f"{speed.images_per_second:g} images/s on {speed.device}: {speed.source}"
            unknown += [f"{each.unknown} of {each.setting}"] if each.unknown else []
            amount = f"{each.trainings - each.unknown} trainings, {each.images / 1e6:.1f} million images"
            _say(f"{each.setting}: {amount}, {each.hours:.1f} GPU-hours ({measured})")
        if total:
            _say(f"estimated GPU-hours: {total:.0f}, without {', '.join(unknown)}")

    def write_sweep(self) -> int:
        """Write the sweep file."""
        from diffreid_lightning.benchmark.submission import write_sweep
        from diffreid_lightning.paths import user_path

        file = user_path(self.given.sweep)
        write_sweep(self.grid, self.given.config, self.wanted, file)
        _say(f"wandb sweep {file}, then on any number of machines: wandb agent SWEEP")
        return 0

    def submit(self) -> int:
        """Submit what is not done."""
        from diffreid_lightning.benchmark.planning import write_plan
        from diffreid_lightning.benchmark.submission import submit

        write_plan(self.grid.root, self.jobs)
        left = self.place.left(self.wanted, self.place.states(self.wanted, self.jobs))
        if submit(self.grid, self.given.config, left, _say):
            return self.report()
        _say("the table of what is done so far: the same command with --table in place of --slurm")
        return 0

    def run(self) -> int:
        """Run what is not done, print the table, then what failed."""
        from diffreid_lightning.benchmark.job_runner import JobRunner, print_failures
        from diffreid_lightning.benchmark.planning import write_plan

        write_plan(self.grid.root, self.jobs)
        named = self.given.only if os.environ.get("WANDB_SWEEP_ID") else []  # an agent's trial is a single cell
        trial = named[0] if len(named) == 1 and named[0] in self.wanted else None
        runner = JobRunner(self.place, self.jobs, self.grid.group, self.given.jobs, trial)
        failures = runner.run(self.wanted)
        self.report()
        print_failures(failures)
        return 1 if failures else 0

    def report(self) -> int:
        """Print the table; write and log it where the whole grid was asked for. Return 1 where a cell has failed."""
        from diffreid_lightning.benchmark.comparison import compare
        from diffreid_lightning.benchmark.outcomes import read_outcomes, undeclared
        from diffreid_lightning.benchmark.planning import write_plan
        from diffreid_lightning.benchmark.results_files import print_comparison, track_comparison, write_comparison

        outcomes = read_outcomes(self.grid, self.jobs, self.place)
        comparison = compare(self.grid, outcomes)
        print_comparison(self.grid, comparison, table_console())
        for label in undeclared(self.jobs, outcomes):
            _say(f"{label}: by its records, labels of the target went into it; its made_from does not say so")
        if not self.given.only:
            folder = write_comparison(self.grid, comparison, outcomes)
            for place in (self.grid.root, folder):
                write_plan(place, self.jobs)
            track_comparison(self.grid, comparison)
            _say(f"tables and picture: {folder}")
        return int(any(each.state == "failed" for each in outcomes))


def _say(text: str) -> None:
    print(text, flush=True)
