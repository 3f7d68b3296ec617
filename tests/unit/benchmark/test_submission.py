"""Handing jobs to a cluster: waves and dependencies by submitit, and a W&B sweep whose trials are cells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as sweeps

from diffreid_lightning.benchmark import submission
from diffreid_lightning.benchmark.expansion import expand
from diffreid_lightning.benchmark.jobs import Job, choose
from diffreid_lightning.benchmark.submission import submit, waves, write_sweep
from diffreid_lightning.errors import UserError
from tests.unit.benchmark.conftest import MakeGrid

CONFIGS = ["benchmark/quick"]
#: stands in for python: notes what it was asked for, and fails for one job
NOTING = """#!/bin/sh
echo "$@" >> {noted}
case "$*" in *seed-1*) exit 1;; esac
"""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script, file = tmp_path / "python", tmp_path / "noted"
    script.write_text(NOTING.format(noted=file))
    script.chmod(0o755)
    monkeypatch.setattr(submission, "PYTHON", str(script))
    return file


def chosen(grid: Any, *patterns: str) -> dict[str, Job]:
    jobs = expand(grid)
    return {name: job for pattern in patterns for name, job in choose(jobs, pattern).items()}


def test_waves_come_after_what_they_need(make_grid: MakeGrid) -> None:
    jobs = expand(make_grid())
    found = waves(jobs)
    level = {job.name: number for number, wave in enumerate(found) for job in wave}
    assert sorted(level) == sorted(jobs)
    for job in jobs.values():
        assert level[job.name] == 1 + max((level[name] for name in job.needs), default=-1)
    assert waves({}) == []


@pytest.mark.parametrize(("cluster", "seeds"), [("debug", (0, 1)), ("local", (1,))])
def test_submitit_runs_one_command_for_each_job(
    make_grid: MakeGrid, noted: Path, cluster: str, seeds: tuple[int, ...]
) -> None:
    grid = make_grid({"slurm": {"cluster": cluster, "timeout_min": 5}})
    names = [f"scratch/direct/market-to-duke/seed-{seed}" for seed in seeds]
    jobs = chosen(grid, *names)
    assert submit(grid, CONFIGS, jobs, lambda text: None)
    lines = noted.read_text().splitlines()
    named = [line.rpartition(" --only=")[2] for line in lines]
    assert sorted(named) == sorted(jobs)
    assert all(line.startswith("-m diffreid_lightning benchmark --config=benchmark/quick --root=") for line in lines)
    for job in jobs.values():
        assert all(named.index(name) < named.index(job.name) for name in job.needs)


class FakeSlurm:
    """An executor that notes what SLURM would be told."""

    cluster = "slurm"

    def __init__(self, **_: Any) -> None:
        self.told: list[tuple[dict[str, Any], list[str]]] = []
        self.parameters: dict[str, Any] = {}

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters |= parameters

    def submit(self, function: Any) -> Any:
        self.told.append((dict(self.parameters), function.command))
        return type("Submitted", (), {"job_id": str(100 + len(self.told))})


def test_slurm_is_told_what_comes_after_what(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = FakeSlurm()
    monkeypatch.setattr("submitit.AutoExecutor", lambda **_: executor)
    more = {"slurm_additional_parameters": {"account": "lab"}, "timeout_min": 60}
    grid = make_grid({"slurm": more})
    jobs = chosen(grid, "diff-person/direct/market-to-duke/seed-0")
    assert not submit(grid, CONFIGS, jobs, lambda text: None), "SLURM is left to itself"
    ids = {command[-1].removeprefix("--only="): str(101 + n) for n, (_, command) in enumerate(executor.told)}
    assert list(ids) == list(jobs)
    for parameters, command in executor.told:
        job = jobs[command[-1].removeprefix("--only=")]
        told = parameters["slurm_additional_parameters"]
        assert parameters["timeout_min"] == 60 and told["account"] == "lab"
        assert told.get("dependency") == (f"afterok:{':'.join(ids[name] for name in job.needs)}" if job.needs else None)


def test_a_cluster_that_is_not_there_is_refused(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor.affinity", lambda: 0)
    with pytest.raises(UserError, match="cluster: local runs the jobs here"):
        submit(make_grid(), CONFIGS, {}, lambda text: None)
    with pytest.raises(UserError, match="with these parameters"):
        submit(make_grid({"slurm": {"cluster": "local", "colour": "red"}}), CONFIGS, {}, lambda text: None)


def test_a_sweep_has_a_trial_for_each_cell(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid, own = make_grid(), tmp_path / "mine.yaml"
    own.write_text("seeds: [0]\n")
    jobs = expand(grid)
    write_sweep(grid, [*CONFIGS, str(own)], jobs, tmp_path / "sweep.yaml")
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert sweep["method"] == "grid"
    assert sweep["parameters"]["only"]["values"] == [name for name, job in jobs.items() if job.cell is not None]
    name = sweep["parameters"]["only"]["values"][3]
    filled = sweeps.create_sweep_command_args({"args": {"only": {"value": name}}})
    words = []
    for word in sweeps.create_sweep_command(list(sweep["command"])):
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        words += {**filled, "env": ["/usr/bin/env"], "interpreter": ["python"]}[macro[1]] if macro else [word]
    expected = ["/usr/bin/env", "python", "-m", "diffreid_lightning", "benchmark", "--config=benchmark/quick"]
    assert words == [*expected, f"--config={own}", f"--root={grid.root}", f"--only={name}"]


def test_a_sweep_replaces_nothing_but_a_sweep(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for content in ("seeds: [0]\n", "a: [", "text"):
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(UserError, match=r"mine\.yaml is not replaced"):
            write_sweep(grid, CONFIGS, {}, tmp_path / "mine.yaml")
        assert (tmp_path / "mine.yaml").read_text() == content
    for _ in range(2):
        write_sweep(grid, CONFIGS, {}, tmp_path / "sweep.yaml")
