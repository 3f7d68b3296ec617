"""Summary of a finished run: ``summary.json`` in its folder, one form for all commands that run a trainer.

A run is read through this file by whatever compares runs. ``results.csv`` and ``config.yaml`` stay beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffreid_lightning.storage.json_notes import DamagedFile, damaged_error, mappings_in, read_json, replace_json

FILE = "summary.json"
#: beside it: the run's id and its attempts, from the start; its configuration; the folder of its curves
IDENTITY_FILE, CONFIG_FILE, METRICS = "run.json", "config.yaml", "metrics"
FORMAT = 1
#: of logged metrics, as papers and ``results.csv`` have them
METRIC_NAMES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
PROVENANCE_FILE = "provenance.json"  #: beside exported weights: the data and weights behind them
_FORM: dict[str, Any] = {
    "format": int,
    "command": str,
    "run_id": str,
    "attempt": int,
    "config_sha256": str,
    "model": dict,
    "data": dict,
    "initialization": {"sources": [str], "steps": int},
    "uses_cameras": bool,
    "metrics": {str: {str: float}},
    "steps": int,
    "epochs": int,
    "seconds": {str: float},
    "device": dict,
    "versions": {str: str},
}


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        run_id: the id under which W&B knows the run.
        attempt: 1, or one more for each time the run was continued.
        config_sha256: SHA-256 of the run's ``config.yaml``, 64 hexadecimal digits.
        seed: ``seed_everything``; None if none was set.
        selection: which weights were evaluated: ``last``, or ``best`` on held-out identities; None if none were.
        model: ``class``, and where the model has them ``backbone`` and ``parameters``.
        data: ``class``, and where the data module tells them ``image_size``, ``train`` (sources with content hashes,
            identities, images) and ``test`` (source, content hash, queries, gallery).
        initialization: ``init_from`` (null for random weights), and what is recorded of the training behind these
            weights: ``sources`` (names of the datasets whose labels went into it), ``steps``, and the ``images`` and
            ``identities`` that it was trained on last.
        uses_cameras: whether training reads camera labels.
        reranked: whether its evaluations re-rank (k-reciprocal), which other numbers are not comparable with.
        metrics: last value of each logged number by split (``train``, ``val``, ``test``): ``mAP``, ``Rank-1``,
            ``Rank-5``, ``Rank-10`` and ``mINP`` in percent, losses and rates under their own names.
        steps: optimizer steps of the evaluated weights since their initialization; without an evaluation the last ones.
        epochs: of the whole training.
        seconds: of this attempt by part: ``fit`` (with its validations), ``validate``, ``test``, ``predict``. The first
            part includes what the data module prepares.
        device: ``name``, ``processes``, ``precision``, ``memory_gib`` of a GPU, and ``peak_memory_gib``: what torch has
            allocated on it at most, or the process in all.
        versions: of this package, Python and the libraries, by name.
    """

    command: str
    run_id: str
    attempt: int
    config_sha256: str
    seed: int | None = None
    selection: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    initialization: Mapping[str, Any] = field(default_factory=lambda: {"init_from": None, "sources": [], "steps": 0})
    uses_cameras: bool = False
    reranked: bool = False
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    steps: int = 0
    epochs: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps behind the weights, those of their initialization included."""
        return self.steps + int(self.initialization["steps"])

    @property
    def sources(self) -> frozenset[str]:
        """Return the names of the datasets that the weights were trained on, their initialization included."""
        return frozenset(self.initialization["sources"]) | named_sources(self.data.get("train"))

    def write(self, folder: Path) -> None:
        """Write the summary into a run folder, whole."""
        replace_json(folder / FILE, {"format": FORMAT, **asdict(self)}, sort_keys=False)


def read_summary(folder: Path) -> RunSummary | None:
    """Read the summary of a run folder; None if there is none.

    Raises:
        UserError: the file is damaged, or of a later form.
    """
    file, remedy = folder / FILE, "remove the file, and test the run again: test --ckpt_path RUN"
    if not file.exists():
        return None
    note = read_json(file, _FORM, remedy=remedy)
    if note["format"] != FORMAT:
        raise damaged_error(file, f"format {note['format']}", looked_for=f"format {FORMAT}", remedy=remedy)
    known = RunSummary.__dataclass_fields__
    return RunSummary(**{name: value for name, value in note.items() if name in known})


def sound_summary(folder: Path) -> RunSummary | None:
    """Read the summary of a run folder; None if there is none, or a damaged one."""
    try:
        return read_summary(folder)
    except DamagedFile:
        return None


def named_sources(note: Any) -> frozenset[str]:
    """Return every name that stands in a list under a key ``sources``, however deep."""
    lists = (own for each in mappings_in(note) if isinstance(own := each.get("sources"), (list, tuple)))
    return frozenset(name for own in lists for name in own if isinstance(name, str))
