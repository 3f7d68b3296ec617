"""Read a run folder: summary, configuration and the history of its metrics."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffreid_lightning.errors import UserError
from diffreid_lightning.report.line_chart import Line
from diffreid_lightning.run_summary import FILE, RunSummary, read_summary
from diffreid_lightning.storage.yaml_files import read_yaml

#: Files of a run folder, as ``cli.run_folder`` names them.
CONFIG, IDENTITY, METRICS = "config.yaml", "run.json", "metrics"
_LARGEST_CONFIG = 50_000  # characters on the page


@dataclass(frozen=True)
class RunFiles:
    """Content of a run folder.

    Args:
        folder: the folder.
        summary: None until a fit or an evaluation has ended, or where it is damaged.
        problem: why there is none; "" if there is one.
        config: text of ``config.yaml``; "" without one.
        settings: the configuration's values by dotted name.
        history: steps and values of each metric with two or more of them.
    """

    folder: Path
    summary: RunSummary | None
    problem: str
    config: str
    settings: Mapping[str, str]
    history: Mapping[str, Line]

    @property
    def results(self) -> dict[str, float]:
        """Return the test results, else those of the validation, by name."""
        metrics = {} if self.summary is None else self.summary.metrics
        return dict(metrics.get("test") or metrics.get("val") or {})


def is_run(folder: Path) -> bool:
    """Return true if a folder is a run's."""
    return any((folder / name).is_file() for name in (IDENTITY, FILE))


def read_run(folder: Path) -> RunFiles:
    """Read a run folder; what is missing or damaged stays empty."""
    summary, problem, config, settings = None, "", "", {}
    try:
        summary = read_summary(folder)
        if summary is None and not folder.name.startswith("predict"):  # which writes none
            problem = "No summary: the run has not ended, or it failed."
    except UserError as error:
        problem = f"{error.what} {error.found or ''}"
    try:
        config = (folder / CONFIG).read_text(encoding="utf-8")[:_LARGEST_CONFIG]
        settings = {name.replace(".init_args.", "."): value for name, value in leaves(read_yaml(folder / CONFIG))}
    except (OSError, ValueError):
        pass  # a run that has just begun has none
    return RunFiles(folder, summary, problem, config, settings, read_history(folder / METRICS))


def read_history(folder: Path) -> dict[str, Line]:
    """Read the metrics of all attempts of a run; a later attempt replaces what an earlier one wrote past its start.

    Args:
        folder: with ``attempt-N/metrics.csv``, as Lightning's CSVLogger writes it.

    Returns:
        Steps and values, (N,) each with N of at least 2, by name.
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
    lines = {name: (np.array(list(line)), np.array(list(line.values()))) for name, line in found.items()}
    return {name: line for name, line in lines.items() if np.isfinite(line[1]).sum() > 1}


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested mappings and lists as texts, by dotted name; a list of plain values is one value."""
    pairs: Any = ()
    if isinstance(node, Mapping):
        pairs = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(each, (Mapping, list)) for each in node):
        pairs = enumerate(node)
    if not pairs:
        yield key, "null" if node is None else str(node)
    for name, value in pairs:
        yield from leaves(value, f"{key}.{name}".lstrip("."))


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
