"""Find initializations that were made with labels that their setting keeps from them.

Unsupervised training, domain adaptation and direct transfer use no label of the dataset that they are tested on. What a
grid declares (``made_from``, and the datasets that preparations are made for) is compared beforehand; what the records
of weights and manifests name is compared once a cell has run.
"""

from __future__ import annotations

from collections.abc import Mapping

from diffreid_lightning.benchmark.grid_entries import Grid
from diffreid_lightning.benchmark.job_records import Workplace
from diffreid_lightning.benchmark.jobs import Job, choose
from diffreid_lightning.datasets.crop_folder import CropFolder
from diffreid_lightning.datasets.person_folder import PersonFolder
from diffreid_lightning.datasets.person_table import PersonTable
from diffreid_lightning.run_summary import RunSummary

#: sources of formats that may be anybody's folder: an equal name tells nothing
_UNNAMED = (CropFolder.source, PersonFolder.source, PersonTable.source)


def seen_by_records(grid: Grid, job: Job, jobs: Mapping[str, Job], place: Workplace, summary: RunSummary) -> bool:
    """Return true if records say that the target's labels went into what a finished cell started from.

    Args:
        grid: the grid.
        job: the cell.
        jobs: all jobs of the grid by name.
        place: their folders.
        summary: of the cell's run.
    """
    if job.cell is None or not grid.settings[job.cell.setting].hides_labels:
        return False
    target = summary.data.get("test", {}).get("source")
    if target is None:  # of a validation
        target = place.source_name(job.cell.dataset)
    if not isinstance(target, str) or target in _UNNAMED:
        return False
    if target in map(place.source_name, job.datasets - {job.cell.dataset}):
        return False  # two datasets under one name, of which records tell nothing
    # The summary of a needed run's test names what that was trained on; others name what they start from.
    tested = job.words[0] != "fit" and grid.settings[job.cell.setting].needs is not None
    behind = summary.sources if tested else frozenset(summary.initialization["sources"])
    before = (place.record(each) for each in choose(jobs, job.name).values() if each is not job)
    return target in behind or any(target in record.sources for record in before if record is not None)
