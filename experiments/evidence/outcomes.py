"""Read the outcome of a run from its folder; keep all outcomes in a file that other machines continue from."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.pipeline.summary import results_of
from experiments.evidence.lab import FIRST_RUN
from experiments.evidence.stages import Share
from experiments.instruments.report import write_json

FILE = "outcomes.json"
_CURVE = "val/mAP"

#: share of the training images, row and seed
Run = tuple[Share, str, int]


@dataclass(frozen=True)
class Outcome:
    """A fine-tuned network.

    Args:
        mAP: on query and gallery, in per cent.
        rank1: likewise.
        curve: (epochs, mAP on the held-out identities in per cent), in order.
    """

    mAP: float
    rank1: float
    curve: tuple[tuple[int, float], ...]


class Kept(NamedTuple):
    """Outcomes of a comparison, with the inputs they were measured for."""

    outcomes: dict[Run, Outcome]
    seconds: dict[str, float]  #: that its steps took, by name

    def and_also(self, more: Kept) -> Kept:
        """Join two; where both know something, the second wins."""
        return Kept({**self.outcomes, **more.outcomes}, {**self.seconds, **more.seconds})


class Ledger:
    """Outcomes in a file that is written anew, whole, with each that comes.

    Args:
        file: where to.
        made_for: what they belong to: inputs, sizes, settings; plain values.
        earlier: what is known already, which is written down with the rest.
        seconds: tells what the steps of this machine took.
    """

    def __init__(
        self, file: Path, made_for: Mapping[str, Any], earlier: Kept, seconds: Callable[[], dict[str, float]]
    ) -> None:
        self.file = file
        self.made_for = made_for
        self._earlier = earlier
        self._outcomes: dict[Run, Outcome] = {}
        self._seconds = seconds
        self._writing = threading.Lock()

    def add(self, run: Run, outcome: Outcome) -> None:
        """Write down what a run came to."""
        with self._writing:
            self._outcomes[run] = outcome
            self.write()

    def write(self) -> None:
        """Write the file."""
        write_outcomes(self.file, self.made_for, self._earlier.and_also(Kept(self._outcomes, self._seconds())))


def write_outcomes(file: Path, made_for: Mapping[str, Any], kept: Kept) -> None:
    """Write outcomes and what they belong to, whole."""
    rows = [
        {"share": share, "row": label, "seed": seed, **asdict(found)}
        for (share, label, seed), found in kept.outcomes.items()
    ]
    write_json(file, {"made_for": made_for, "seconds": kept.seconds, "outcomes": rows})


def read_outcomes(file: Path, made_for: Mapping[str, Any]) -> Kept:
    """Read what :func:`write_outcomes` wrote; nothing where there is no file.

    Raises:
        UserError: the file cannot be read, or belongs to something else.
    """
    if not file.exists():
        return Kept({}, {})
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        found = {
            (row["share"], str(row["row"]), int(row["seed"])): Outcome(
                row["mAP"], row["rank1"], tuple((epoch, value) for epoch, value in row["curve"])
            )
            for row in read["outcomes"]
        }
        seconds = {str(name): float(value) for name, value in read["seconds"].items()}
        belongs_to = read["made_for"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"Earlier outcomes cannot be read from {file}", found=f"{error}") from error
    if belongs_to != json.loads(json.dumps(made_for)):
        raise UserError(
            f"The outcomes in {file} belong to something else.",
            looked_for=json.dumps(made_for, sort_keys=True),
            found=json.dumps(belongs_to, sort_keys=True),
            remedy="use the model, the corpus, the settings and the kind of device that they were made with "
            "(CUDA_VISIBLE_DEVICES= keeps to the CPU), or give another --work",
        )
    return Kept(found, seconds)


def read_outcome(folder: Path) -> Outcome:
    """Read a run that was tested.

    Raises:
        RunError: it was not, or was never validated.
    """
    found = results_of(folder / FIRST_RUN)
    if found is None:
        raise RunError(f"There is no result in {folder}.", looked_for="results.csv with a test")
    return Outcome(found["mAP"], found["Rank-1"], val_curve(folder))


def val_curve(folder: Path) -> tuple[tuple[int, float], ...]:
    """Return (epochs trained, mAP on the held-out identities) of a run's last attempt.

    Raises:
        RunError: it was never validated.
    """
    files = folder.glob(f"{FIRST_RUN}/metrics/attempt-*/metrics.csv")
    files = sorted(files, key=lambda file: (len(str(file)), str(file)))
    rows: list[dict[str, str]] = []
    if files:
        with files[-1].open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(_CURVE)]
    if not rows:
        raise RunError(f"There is no validation in {folder}.", looked_for=f"metrics.csv with {_CURVE}")
    return tuple((int(row["epoch"]) + 1, float(row[_CURVE])) for row in rows)
