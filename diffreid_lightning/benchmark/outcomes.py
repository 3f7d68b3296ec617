"""Read the states and results of the cells of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from diffreid_lightning.benchmark.comparison import METRICS, Outcome
from diffreid_lightning.benchmark.grid_entries import Grid, Split
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.jobs import Job
from diffreid_lightning.benchmark.leakage import seen_by_records
from diffreid_lightning.reid.query_table import query_file, read_average_precisions
from diffreid_lightning.run_summary import RunSummary


def read_outcomes(grid: Grid, jobs: Mapping[str, Job], place: Workplace) -> list[Outcome]:
    """Read the outcome of each cell, in the order of the grid.

    Args:
        grid: the grid.
        jobs: all its jobs by name.
        place: their folders.
    """
    return [_read(grid, job, jobs, place) for job in jobs.values() if job.cell is not None]


def cell_values(split: Split, summary: RunSummary | None) -> dict[str, float]:
    """Return a cell's mAP and Rank-1 in percent by name; none without both in its run's summary.

    Args:
        split: what its results are read of.
        summary: of its run, or None.
    """
    found = {} if summary is None else summary.metrics.get(split, {})
    return {name: found[name] for name in METRICS} if set(METRICS) <= set(found) else {}


def undeclared(jobs: Mapping[str, Job], outcomes: list[Outcome]) -> list[str]:
    """Name the rows whose records show labels of the target that the grid does not declare."""
    declared = {job.cell for job in jobs.values() if job.cell is not None}
    return sorted({each.cell.initialization for each in outcomes if each.cell not in declared})


def _read(grid: Grid, job: Job, jobs: Mapping[str, Job], place: Workplace) -> Outcome:
    assert job.cell is not None
    state = place.state(job, jobs)
    found = place.result(job) if state == "done" else None
    values = cell_values(job.cell.split, None if found is None else found[1])
    if found is None or not values:
        return Outcome(job.cell, "failed" if state == "done" else state)
    run, summary = found
    record = place.record(job)
    cell = job.cell
    if not cell.sees_target and seen_by_records(grid, job, jobs, place, summary):
        cell = replace(cell, sees_target=True)
    return Outcome(
        cell=cell,
        state=state,
        values=values,
        steps=summary.total_steps,
        images=int(summary.initialization.get("images", 0)),
        identities=int(summary.initialization.get("identities", 0)),
        selection=summary.selection,
        uses_cameras=summary.uses_cameras,
        reranked=summary.reranked,
        seconds=0.0 if record is None else record.seconds,
        people=read_average_precisions(query_file(run, job.cell.split)),
    )
