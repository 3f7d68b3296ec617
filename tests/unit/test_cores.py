"""Loader processes and threads follow the cores that a process may use, not the machine's."""

from __future__ import annotations

import os

import pytest

from diffreid_lightning.cores import THREADS, default_num_workers, environment_with_threads, usable_cores


def test_a_restricted_process_counts_its_own_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


@pytest.mark.parametrize(("cores", "sharing", "processes"), [(64, 1, 8), (8, 4, 2), (2, 4, 1), (1, 1, 1)])
def test_loader_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, sharing: int, processes: int
) -> None:
    monkeypatch.setattr("diffreid_lightning.cores.usable_cores", lambda: cores)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert default_num_workers(sharing) == processes


def test_a_task_that_slurm_has_bound_shares_its_cores_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffreid_lightning.cores.usable_cores", lambda: 8)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert default_num_workers(2) == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")  # not bound: the node's cores are seen
    assert default_num_workers(2) == 4


def test_jobs_share_the_threads_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffreid_lightning.cores.usable_cores", lambda: 8)
    assert [environment_with_threads({}, jobs)[THREADS] for jobs in (1, 3, 16)] == ["8", "2", "1"]
    assert environment_with_threads({THREADS: "5"}, 2) == {THREADS: "5"}
