"""Check the cells of a grid before any is run, and note which they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffreid_lightning.benchmark.job_records import Workplace, dataset_rows
from diffreid_lightning.benchmark.jobs import Job, data_token, job_settings
from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import make_folder
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import read_sound_json, write_json

_FILE = "plan.json"


def write_plan(folder: Path, jobs: Mapping[str, Job]) -> None:
    """Write the folders of a grid's cells into its root, or beside its table; another configuration has others.

    Raises:
        UserError: there can be no such folder.
    """
    make_folder(folder)
    cells = [job.folder for job in jobs.values() if job.cell is not None]
    if read_plan(folder) != cells:
        with replace_file(folder / _FILE, contended=True) as staged:
            write_json(staged, {"cells": cells})


def read_plan(folder: Path) -> list[str] | None:
    """Return what :func:`write_plan` wrote last; None if nothing, or it is damaged."""
    note = read_sound_json(folder / _FILE, {"cells": [str]})
    return None if note is None else list(note["cells"])


def refuse_unvalidated(jobs: Mapping[str, Job], place: Workplace) -> None:
    """Refuse cells that 'evaluate: val' could not measure, since nobody is held out of their dataset.

    Nothing is said of data that are not here, or of other data that a setting trains on.

    Args:
        jobs: those to be run, by name.
        place: their folders, and the paths of the datasets.

    Raises:
        UserError: a cell holds out no share of the people, and its dataset has no val split.
    """
    for job in jobs.values():
        if job.cell is None or job.cell.split != "val":
            continue
        label = job.cell.dataset
        rows, share = dataset_rows(place.paths[label]), job_settings(job.words).get("data.init_args.val_share")
        trains = any(data_token(label) in word for word in job.words if not word.startswith("--data.test"))
        if trains and rows is not None and not share and (share is not None or "val" not in rows[1]):
            raise UserError(
                f"{job.name} would have no people to be evaluated on.",
                looked_for="a split val of its dataset, or data.val_share above 0, as 'evaluate: val' asks for",
                found=f"the splits {', '.join(sorted(rows[1]))} of {place.paths[label]}, "
                f"data.val_share {'null' if share is None else share}",
                remedy=f"add '--data.val_share 0.2' to the flags of {label!r} or of the grid, or leave out 'evaluate'",
            )
