"""Hand the jobs of a benchmark to a cluster: by submitit to SLURM, or as a W&B sweep whose agents share the cells.

Each job is the command ``benchmark --only NAME``: it runs one cell, and first what the cell needs if that is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.jobs import Job
from diffreid_lightning.config_files import find_config
from diffreid_lightning.errors import UserError, needs_extra
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.paths import make_folder
from diffreid_lightning.storage.atomic import refuse_foreign_file, replace_file
from diffreid_lightning.storage.yaml_files import read_yaml
from diffreid_lightning.tracking import default_project

PYTHON = sys.executable
FOLDER = "submitted"  # submitit's files and logs, below the root
_SLURM = "slurm"
_ONLY = "only"  # the parameter of a sweep over cells, and the option that it sets


def command_for(configs: Sequence[str], root: Path) -> list[str]:
    """Return the words after the interpreter that run a benchmark on any machine that has this folder.

    Args:
        configs: as ``--config`` was given.
        root: the benchmark's folder.
    """
    named = [name if _is_packaged(name) else str(find_config(name).resolve()) for name in configs]
    return [
        "-m",
        "diffreid_lightning",
        "benchmark",
        *(f"--config={name}" for name in named),
        f"--root={root.resolve()}",
    ]


def submit(grid: Grid, configs: Sequence[str], jobs: Mapping[str, Job], say: Callable[[str], None]) -> bool:
    """Submit jobs, each after those it needs.

    SLURM gets the dependencies and is left to itself. Another executor of submitit is waited for, wave after wave.

    Args:
        grid: the grid, whose ``slurm`` section holds the executor's parameters, and ``cluster`` where it is not SLURM.
        configs: as ``--config`` was given.
        jobs: those that are not done, by name, each after those it needs.
        say: prints a line.

    Returns:
        Whether the jobs have ended.

    Raises:
        UserError: submitit is not installed, finds no cluster, or does not know a parameter.
    """
    command = [PYTHON, *command_for(configs, grid.root)]
    parameters = dict(grid.slurm)
    executor = _executor(grid, parameters)
    from submitit.helpers import CommandFunction  # an optional package, which the line above has found

    submitted: dict[str, Any] = {}
    on_slurm = executor.cluster == _SLURM
    for wave in [[job] for job in jobs.values()] if on_slurm else waves(jobs):
        for job in wave:
            if on_slurm:
                before = [submitted[name].job_id for name in job.needs if name in submitted]
                executor.update_parameters(slurm_additional_parameters=_after(parameters, before))
            submitted[job.name] = executor.submit(CommandFunction([*command, f"--only={job.name}"], cwd=Path.cwd()))
            say(f"{job.name}: {executor.cluster} job {submitted[job.name].job_id}")
        if not on_slurm:
            for job in wave:
                submitted[job.name].exception()  # waits; what failed is in the job's own log
    return not on_slurm


def waves(jobs: Mapping[str, Job]) -> list[list[Job]]:
    """Group jobs so that each group needs jobs of earlier groups alone.

    Args:
        jobs: by name, each after those it needs.
    """
    depth: dict[str, int] = {}
    for job in jobs.values():
        depth[job.name] = 1 + max((depth[name] for name in job.needs if name in depth), default=-1)
    return [[jobs[name] for name in jobs if depth[name] == level] for level in sorted(set(depth.values()))]


def write_sweep(grid: Grid, configs: Sequence[str], jobs: Mapping[str, Job], file: Path) -> None:
    """Write a W&B sweep over cells: each trial is one, and any number of agents share them.

    Args:
        grid: the grid.
        configs: as ``--config`` was given.
        jobs: by name, each after those it needs.
        file: output YAML; an earlier one is replaced.

    Raises:
        UserError: another file is in its place.
    """
    refuse_foreign_file(file, _is_sweep, "a sweep file", "an earlier sweep over cells", "--sweep")
    sweep = {
        "name": grid.group,
        "project": default_project(),
        "method": "grid",
        "metric": {"name": f"{grid.evaluate}/mAP", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", *command_for(configs, grid.root), "${args}"],
        "parameters": {_ONLY: {"values": [job.name for job in jobs.values() if job.cell is not None]}},
    }
    make_folder(file.parent)
    with replace_file(file) as staged:
        staged.write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")


def _is_sweep(file: Path) -> bool:
    """Return true if a file is a sweep over cells, and not the grid itself, for instance."""
    try:
        given = read_yaml(file)
    except ValueError:
        return False
    parameters = given.get("parameters") if isinstance(given, dict) else None
    return isinstance(parameters, dict) and set(parameters) == {_ONLY}


def _is_packaged(name: str) -> bool:
    return configs_folder() in find_config(name).parents


def _executor(grid: Grid, parameters: dict[str, Any]) -> Any:
    with needs_extra("slurm", "Submitting to a cluster needs the package submitit."):
        import submitit
    cluster = parameters.pop("cluster", _SLURM)
    try:
        executor = submitit.AutoExecutor(folder=grid.root / FOLDER / "%j", cluster=cluster)
        executor.update_parameters(name=grid.group, **parameters)
    except (RuntimeError, ValueError, NameError, AssertionError, TypeError) as error:
        raise UserError(
            f"submitit cannot use the cluster {cluster!r} with these parameters.",
            looked_for="a cluster, and parameters of submitit's AutoExecutor, under 'slurm:' in the config",
            found=str(error),
            remedy="submit from a machine that has sbatch, or correct the section; cluster: local runs the jobs here",
        ) from error
    return executor


def _after(parameters: Mapping[str, Any], before: Sequence[str]) -> dict[str, Any]:
    """Return SLURM's further parameters for a job that waits for others to end well."""
    more = dict(parameters.get("slurm_additional_parameters") or {})
    if before:
        more |= {"dependency": f"afterok:{':'.join(before)}", "kill-on-invalid-dep": "yes"}
    return more
