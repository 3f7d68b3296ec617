"""Read the logged curves of a run: every value, by name and step."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  #: steps and values, (N,) each


def read_history(folder: Path) -> dict[str, Curve]:
    """Read the metrics of all attempts of a run; a later attempt replaces what an earlier one wrote past its start.

    Args:
        folder: with ``attempt-N/metrics.csv``, as Lightning's CSVLogger writes it; a run may be writing it.

    Returns:
        Steps and values, (N,) each in the order of the steps, by name.
    """
    found: dict[str, dict[float, float]] = {}
    attempts = [file for file in folder.glob("attempt-*/metrics.csv") if file.parent.name[8:].isdecimal()]
    for file in sorted(attempts, key=lambda file: int(file.parent.name[8:])):
        points = list(_points(file))
        first = min((step for _, step, _ in points), default=np.inf)
        for name, line in found.items():
            found[name] = {step: value for step, value in line.items() if step < first}
        for name, step, value in points:
            found.setdefault(name, {})[step] = value
    return {
        name: (np.array(sorted(line)), np.array([line[step] for step in sorted(line)])) for name, line in found.items()
    }


def _points(file: Path) -> Iterator[tuple[str, float, float]]:
    """Yield name, step and value of every number in a metrics file; a line that was cut off is left out."""
    with file.open(newline="", encoding="utf-8", errors="replace") as handle:
        for row in csv.DictReader(handle):
            try:
                numbers = {name: float(value) for name, value in row.items() if name and value}
                step = numbers.pop("step")
            except (KeyError, TypeError, ValueError):
                continue
            yield from ((name, step, value) for name, value in numbers.items() if name != "epoch")
