"""Keep folders, locks and records of a benchmark's jobs, and tell their states.

A record is written when a job begins and again when it ends. If datasets or earlier results differ from those it was
begun with, its folder is set aside and the job starts anew.
"""

from __future__ import annotations

import functools
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from diffreid_lightning.benchmark.jobs import FIRST_RUN, Job, configs_of
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.paths import make_folder
from diffreid_lightning.pipeline.fingerprints import file_hash
from diffreid_lightning.run_summary import PROVENANCE_FILE, RunSummary, named_sources, sound_summary
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.json_notes import read_sound_json, replace_json

FILE = "job.json"
LOG = "log.txt"
_LOCK = ".lock"
_WEIGHTS, _IMAGES = "weights", "images pre-trained on"

State = Literal["done", "failed", "interrupted", "outdated", "to do"]


@dataclass(frozen=True)
class Record:
    """Record of a job.

    Args:
        inputs: content hash of each dataset by label, of the weights it starts from and the images it is pre-trained
            on; null where none could be read.
        needs: token of each job that it needs, by name.
        token: of this result; another one each time the job is begun.
        exit_code: of its command; None while it runs, or once it was killed.
        seconds: of all attempts that ended by themselves.
        sources: names of the datasets that a preparation has to do with, by what lies in its folder.
    """

    inputs: Mapping[str, str | None]
    needs: Mapping[str, str]
    token: str
    exit_code: int | None = None
    seconds: float = 0.0
    sources: tuple[str, ...] = field(default=())

    def write(self, folder: Path) -> None:
        """Write the record into a job's folder."""
        replace_json(folder / FILE, asdict(self), sort_keys=False, durable=True)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Read a job's record; None if it is missing or damaged."""
        form = {"inputs": dict, "needs": {str: str}, "token": str, "seconds": float, "sources": [str]}
        note = read_sound_json(folder / FILE, form)
        if note is None:
            return None
        code = note.get("exit_code")
        return cls(
            note["inputs"],
            note["needs"],
            note["token"],
            code if isinstance(code, int) else None,
            note["seconds"],
            tuple(note["sources"]),
        )


class Workplace:
    """The folder of a benchmark.

    Args:
        root: the folder.
        paths: path of each dataset by label.
    """

    def __init__(self, root: Path, paths: Mapping[str, str]) -> None:
        self.root = root
        self.paths = paths

    def folder(self, job: Job) -> Path:
        """Return a job's folder."""
        return self.root / job.folder

    def missing(self, job: Job) -> list[str]:
        """Return the labels of the datasets of a job that cannot be read here."""
        return [label for label in sorted(job.datasets) if dataset_rows(self.paths[label]) is None]

    def log(self, job: Job) -> Path:
        """Return the file with the output of a job's command."""
        return self.folder(job) / LOG

    def record(self, job: Job) -> Record | None:
        """Return a job's record, None if it was never begun."""
        return Record.read(self.folder(job))

    def lock(self, job: Job) -> locks.FileLock | None:
        """Lock a job against other processes; None if one is at work on it."""
        folder = self.folder(job)
        make_folder(folder.parent)
        # Beside the folder, which may be set aside.
        return locks.take(folder.with_name(f"{folder.name}{_LOCK}"), patience=0, inheritable=True)

    def state(self, job: Job, jobs: Mapping[str, Job]) -> State:
        """Return the state of a job; datasets, and results it needs, that are not here count as unchanged."""
        record = self.record(job)
        if record is None:
            return "to do"
        outdated_needs = any(self.state(jobs[name], jobs) == "outdated" for name in job.needs)
        if outdated_needs or not self._belongs(record, job, jobs):
            return "outdated"
        if record.exit_code is None:
            return "interrupted"
        return "failed" if record.exit_code else "done"

    def begin(self, job: Job, jobs: Mapping[str, Job]) -> Record:
        """Write the record of a job that begins or continues; results of other inputs are set aside first."""
        folder = self.folder(job)
        before, was_here = self.record(job), folder.exists()
        if folder.exists() and (before is None or not self._belongs(before, job, jobs)):
            self._set_aside(folder)
            before = None
        folder.mkdir(parents=True, exist_ok=True)
        seconds = 0.0 if before is None else before.seconds
        token = secrets.token_hex(8) if was_here else self._token_of_removed(job, jobs)
        record = Record(self._inputs(job), self._tokens(job, jobs), token, None, seconds)
        record.write(folder)
        return record

    def end(self, job: Job, begun: Record, exit_code: int, seconds: float) -> Record:
        """Write the record of a job whose command has ended."""
        sources = sources_below(self.folder(job)) if job.cell is None and not exit_code else frozenset()
        total = round(begun.seconds + seconds, 1)
        record = Record(begun.inputs, begun.needs, begun.token, exit_code, total, tuple(sorted(sources)))
        record.write(self.folder(job))
        return record

    def source_name(self, label: str) -> str | None:
        """Return the name that a dataset's rows have as their source; None if it is not on this machine."""
        return dataset_source(self.paths[label])

    def result(self, job: Job) -> tuple[Path, RunSummary] | None:
        """Return a cell's run folder and its summary; None if there is none that can be read."""
        return read_result(self.folder(job), job.words[0])

    def states(self, wanted: Mapping[str, Job], jobs: Mapping[str, Job]) -> dict[str, State]:
        """Return the states of some jobs by name; ``jobs`` are all of the grid."""
        return {name: self.state(job, jobs) for name, job in wanted.items()}

    @staticmethod
    def left(wanted: Mapping[str, Job], states: Mapping[str, State]) -> dict[str, Job]:
        """Return the jobs that are not done, without preparations that nothing left to do needs.

        Args:
            wanted: jobs by name, with all that they need, each after those.
            states: of these jobs, by name.
        """
        used = {name for job in wanted.values() for name in job.needs}
        found: dict[str, Job] = {}
        needed: set[str] = set()
        for job in reversed(list(wanted.values())):
            asked = job.cell is not None or job.name in needed or job.name not in used
            if asked and states[job.name] != "done":
                found[job.name] = job
                needed.update(job.needs)
        return dict(reversed(found.items()))

    def _belongs(self, record: Record, job: Job, jobs: Mapping[str, Job]) -> bool:
        """Return true if a record was made with the present inputs."""
        now = self._inputs(job)
        same = all(None in (now.get(name), before) or now[name] == before for name, before in record.inputs.items())
        tokens = self._tokens(job, jobs)
        return same and all(tokens.get(name) in (None, token) for name, token in record.needs.items())

    def _inputs(self, job: Job) -> dict[str, str | None]:
        places = {label: self.paths[label] for label in sorted(job.datasets)}
        places |= {} if job.images is None else {_IMAGES: job.images}
        found = {label: (dataset_rows(path) or (None,))[0] for label, path in places.items()}
        return found if job.weights is None else {**found, _WEIGHTS: weights_hash(job.weights)}

    def _tokens(self, job: Job, jobs: Mapping[str, Job]) -> dict[str, str]:
        records = {name: self.record(jobs[name]) for name in job.needs}
        return {name: record.token for name, record in records.items() if record is not None}

    def _token_of_removed(self, job: Job, jobs: Mapping[str, Job]) -> str:
        """Return the token that all results made from a removed one hold, so that they stay; else a new one."""
        records = [self.record(each) for each in jobs.values() if job.name in each.needs]
        tokens = {record.needs[job.name] for record in records if record is not None and job.name in record.needs}
        return tokens.pop() if len(tokens) == 1 else secrets.token_hex(8)

    @staticmethod
    def _set_aside(folder: Path) -> None:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.outdated-{number}")).exists():
            number += 1
        folder.rename(aside)


def read_result(folder: Path, command: str) -> tuple[Path, RunSummary] | None:
    """Return the run folder and the summary of a cell's result: of its only fit, or of the newest other run.

    Args:
        folder: of the cell.
        command: ``fit``, ``test`` or ``validate``.
    """
    runs = [folder / FIRST_RUN] if command == "fit" else sorted(folder.glob(f"{command}-*"))
    return next(((run, found) for run in reversed(runs) if (found := sound_summary(run)) is not None), None)


@functools.cache
def dataset_rows(path: str) -> tuple[str, frozenset[str]] | None:
    """Hash the rows of a dataset: names, identities, cameras and splits of its images, not their pixels.

    Returns:
        64 hexadecimal digits, and its splits; None if no dataset can be read there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each run that reads it warns of its counts
            manifest = open_dataset(path).manifest()
            return manifest.content_hash, frozenset(manifest.numpy("split").tolist())
    except (UserError, OSError):
        return None


@functools.cache
def dataset_source(path: str) -> str | None:
    """Return the source of a dataset; None if none can be read there."""
    try:
        return open_dataset(path).source
    except (UserError, OSError):
        return None


@functools.cache
def weights_hash(init_from: str) -> str | None:
    """Hash the weights at a path (a file or a timm folder); None if there is nothing at it."""
    path = Path(init_from.removeprefix("local-dir:")).expanduser()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        return None
    return " ".join(file_hash(file) for file in files)


def sources_below(folder: Path) -> frozenset[str]:
    """Return the sources named by the manifests in a folder and by the provenance of its networks."""
    found: set[str] = set()
    for file in folder.rglob(FILE_NAME):
        try:
            found.update(Manifest.read(file).numpy("source").tolist())
        except UserError:  # damaged; the command that reads it says so
            continue
    for file in folder.rglob(PROVENANCE_FILE):
        found |= named_sources(read_sound_json(file))
    return frozenset(found)


def forget() -> None:
    """Clear the cached hashes and configs: between two benchmarks of one process, things may change."""
    for remembered in (dataset_rows, dataset_source, weights_hash, configs_of):
        remembered.cache_clear()
