"""Count the cores of this process and share them out.

Generation divides its threads among the parts of a batch (``diffusion/batches_on_threads.py``); a stage of a chain with
``all_threads`` does not share with others (``pipeline/stage_jobs.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: the environment variable for the threads of an operation
THREADS = "OMP_NUM_THREADS"
_MAX_WORKERS = 8


def usable_cores() -> int:
    """Count the cores that this process may use: those of its SLURM task or cpuset, not all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_num_workers(local_processes: int = 1) -> int:
    """Return the default number of loader processes: one per core, at most 8.

    Args:
        local_processes: processes that have these cores in common, such as those of DDP on one machine. A task that
            SLURM has bound to cores has them for itself.
    """
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if of_task.isdecimal() and usable_cores() <= int(of_task):
        local_processes = 1
    return max(1, min(_MAX_WORKERS, usable_cores() // local_processes))


def environment_with_threads(environment: Mapping[str, str], jobs: int) -> dict[str, str]:
    """Return an environment in which each of several jobs has its share of the threads, unless it says how many.

    Args:
        environment: of one of them.
        jobs: how many run at once.
    """
    return {THREADS: str(max(1, usable_cores() // jobs)), **environment}
