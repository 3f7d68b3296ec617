"""Read a run folder: summary, configuration and the history of its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffreid_lightning.config_files import leaves
from diffreid_lightning.errors import UserError
from diffreid_lightning.metric_history import Curve, read_history
from diffreid_lightning.run_summary import CONFIG_FILE, FILE, IDENTITY_FILE, METRICS, RunSummary, read_summary
from diffreid_lightning.storage.yaml_files import read_yaml

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
    history: Mapping[str, Curve]

    @property
    def results(self) -> dict[str, Mapping[str, float]]:
        """Return the retrieval results by split, those of the test first."""
        metrics = {} if self.summary is None else self.summary.metrics
        return {split: metrics[split] for split in ("test", "val") if "mAP" in metrics.get(split, {})}


def is_run(folder: Path) -> bool:
    """Return true if a folder is a run's."""
    return any((folder / name).is_file() for name in (IDENTITY_FILE, FILE))


def read_run(folder: Path) -> RunFiles:
    """Read a run folder; what is missing or damaged stays empty."""
    summary, problem, config, settings = None, "", "", {}
    try:
        summary = read_summary(folder)
        if summary is None and not folder.name.startswith("predict"):  # which may have found nothing left to do
            problem = "No summary: the run has not ended, or it failed."
    except UserError as error:
        problem = f"{error.what} {error.found or ''}"
    try:
        config = (folder / CONFIG_FILE).read_text(encoding="utf-8")[:_LARGEST_CONFIG]
        named = named_texts(read_yaml(folder / CONFIG_FILE))
        settings = {name.replace(".init_args.", "."): value for name, value in named}
    except (OSError, ValueError):
        pass  # a run that has just begun has none
    history = {name: line for name, line in read_history(folder / METRICS).items() if np.isfinite(line[1]).sum() > 1}
    return RunFiles(folder, summary, problem, config, settings, history)


def named_texts(settings: Any) -> Iterator[tuple[str, str]]:
    """Yield the values of nested settings as texts, by dotted name."""
    return ((name, "null" if value is None else str(value)) for name, value in leaves(settings))
