"""What a run came to, read from its folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from diffreid_lightning.errors import RunError
from diffreid_lightning.pipeline.report import results_of

_CURVE = "val/mAP"


@dataclass(frozen=True)
class Outcome:
    """A fine-tuned network.

    Args:
        mAP: on query and gallery, in per cent.
        rank1: likewise.
        curve: (epochs, mAP on the held-out identities in per cent), in order.
        folder: the run's step.
    """

    mAP: float
    rank1: float
    curve: tuple[tuple[int, float], ...]
    folder: Path


def read_outcome(folder: Path) -> Outcome:
    """Read a run that was tested.

    Raises:
        RunError: it was not, or was never validated.
    """
    found = results_of(folder)
    if found is None:
        raise RunError(f"There is no result in {folder}.", looked_for="results.csv with a test")
    return Outcome(found["mAP"], found["Rank-1"], val_curve(folder), folder)


def val_curve(folder: Path) -> tuple[tuple[int, float], ...]:
    """Return (epochs trained, mAP on the held-out identities) of a run's last attempt.

    Raises:
        RunError: it was never validated.
    """
    files = sorted(folder.glob("fit-*/metrics/attempt-*/metrics.csv"), key=lambda file: (len(str(file)), str(file)))
    rows: list[dict[str, str]] = []
    if files:
        with files[-1].open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(_CURVE)]
    if not rows:
        raise RunError(f"There is no validation in {folder}.", looked_for=f"metrics.csv with {_CURVE}")
    return tuple((int(row["epoch"]) + 1, float(row[_CURVE])) for row in rows)
