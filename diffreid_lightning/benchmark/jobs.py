"""Define the commands of a benchmark: cells of its grid, and preparations that several cells start from."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffreid_lightning.benchmark.grid_entries import Split
from diffreid_lightning.config_files import load_layers, split_config_flags, written_leaves
from diffreid_lightning.errors import UserError, did_you_mean, shorten
from diffreid_lightning.paths import user_path
from diffreid_lightning.pipeline.fingerprints import named_files, vocabulary_hashes
from diffreid_lightning.pipeline.graph import read_chain
from diffreid_lightning.run_summary import FILE as SUMMARY_FILE
from diffreid_lightning.run_summary import IDENTITY_FILE

#: stands in words for the folder of everything that is made
ROOT = "<root>"
#: the run of a fit: the first in its folder, and the only one
FIRST_RUN = "fit-001"
_KEY_LENGTH = 10


@dataclass(frozen=True)
class Cell:
    """Place of a run in the grid.

    Args:
        initialization: label of its row.
        setting: label of its setting.
        dataset: label of the dataset that it is tested on.
        source: label of the dataset whose labels are used where that is another one; None otherwise.
        seed: of the run.
        sees_target: its initialization was made with labels of that dataset that the setting keeps from it.
        split: what its results are read of: ``test`` is query and gallery, ``val`` held-out identities.
    """

    initialization: str
    setting: str
    dataset: str
    source: str | None
    seed: int
    sees_target: bool = False
    split: Split = "test"

    @property
    def column(self) -> tuple[str, str]:
        """Return setting and dataset, a target as ``SOURCE to TARGET``."""
        return self.setting, self.dataset if self.source is None else f"{self.source} to {self.dataset}"


@dataclass(frozen=True)
class Job:
    """A command with a folder of its own.

    Args:
        name: ``ROW/SETTING/DATASET/seed-N``, or ``made/NAME/...`` for a preparation.
        words: the command; ``<root>`` and ``<data:LABEL>`` stand for places on this machine.
        needs: names of the jobs whose results it reads.
        datasets: labels of the datasets that it and all before it read.
        made_from: labels of the datasets whose identities went into what it starts from or makes.
        made_from_all: those of them of which all training images did, in place of a subset.
        weights: a path from elsewhere that it starts from, or None.
        images: images from elsewhere that it trains on, as ``data.train`` takes them; None for the grid's.
        key: hash of what it does: its words, the configs they name, and the keys of what it needs.
        cell: its place in the grid; None for a preparation.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    datasets: frozenset[str]
    made_from: frozenset[str]
    made_from_all: frozenset[str]
    weights: str | None
    key: str
    images: str | None = None
    cell: Cell | None = None

    @property
    def folder(self) -> str:
        """Return its folder below the root; another configuration has another folder."""
        return folder_of(self.name, self.key)


def folder_of(name: str, key: str) -> str:
    """Return a job's folder below the root."""
    return f"{name}/{key}" if name.startswith("made/") else f"cells/{name}/{key}"


def data_token(label: str) -> str:
    """Return the token that stands for the path of a dataset in words."""
    return f"<data:{label}>"


def on_this_machine(words: Iterable[str], root: Path, paths: Mapping[str, str]) -> list[str]:
    """Replace tokens by places on this machine.

    Args:
        words: of a job.
        root: the folder of everything that is made.
        paths: path of each dataset by label.
    """
    places = {ROOT: str(root), **{data_token(label): path for label, path in paths.items()}}
    found = []
    for word in words:
        for token, place in places.items():
            word = word.replace(token, place)
        found.append(word)
    return found


def key_of(words: Sequence[str], list_file: str | None, compared: Collection[str | None] = ()) -> str:
    """Hash what a command does: 10 hexadecimal digits that do not depend on where anything lies.

    Args:
        words: with tokens for places; folders of earlier jobs hold their keys.
        list_file: a list of images that its subset is taken from, or None.
        compared: paths of weights and images, whose content its record holds: it may be on another machine only.

    Raises:
        UserError: a config or the list cannot be read.
    """
    names, _ = split_config_flags(words)
    configs = configs_of(words[0], tuple(names))
    listed = None if list_file is None else _list_hash(list_file)
    made_of = [list(words), configs, vocabulary_hashes([*configs], words), listed]
    elsewhere = {list_file, *compared}
    files = named_files((), [word for word in words if not elsewhere & {word, word.partition("=")[2]}], configs)
    files = {path: content for path, content in files.items() if path not in elsewhere}
    made_of += [files] if files else []  # without any, the key is that of earlier versions
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:_KEY_LENGTH]


@functools.cache
def configs_of(command: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Load the configs of a command, from the lowest to the topmost; of a chain, its stages and theirs.

    Raises:
        UserError: one of them cannot be found or read.
    """
    if command != "pipeline":
        return load_layers(command, names)
    chain = read_chain(names, {}, {})  # a job does not see the variables of this environment
    stages = {stage.name: [list(stage.words), stage.settings()] for stage in chain.stages}
    return [{"stages": stages, "variables": dict(chain.variables)}]


def job_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a job's command that are written in its configs and flags, by dotted name.

    Args:
        words: the command, which may be a chain's; a flag without ``=`` has its value in the next word.
    """
    names, rest = split_config_flags(words)
    return written_leaves(configs_of(words[0], tuple(names)), rest)


def set_aside_dead_end(folder: Path) -> None:
    """Move the fits in a job's folder away where the next would not go on in the first, whose results are read.

    ``--ckpt_path last`` goes on from a last checkpoint, or starts a run again that was begun and has no summary.
    """
    first, runs = folder / FIRST_RUN, [each for each in folder.glob("fit-*") if each.is_dir()]
    begun = (first / IDENTITY_FILE).is_file() and not (first / SUMMARY_FILE).is_file()
    if not runs or (first / "checkpoints/last.ckpt").is_file() or (begun and runs == [first]):
        return
    number = 1
    while (aside := folder / f"earlier_{number}").exists():  # without a hyphen, which would count as a run's number
        number += 1
    aside.mkdir()
    for each in runs:
        each.rename(aside / each.name)


def _list_hash(file: str) -> str:
    try:
        return hashlib.sha256(user_path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"The list of images {file} cannot be read.",
            looked_for="a text file with one file name a line",
            found=str(error),
        ) from error


def choose(jobs: Mapping[str, Job], *patterns: str) -> dict[str, Job]:
    """Return the jobs whose names match any of some patterns, with everything that they need.

    Args:
        jobs: all of the grid, each after those it needs.
        patterns: names with ``*`` and ``?``; a part that ends at a ``/`` stands for all below it. Without any, all.

    Raises:
        UserError: one matches none.
    """
    if not patterns:
        return dict(jobs)
    wanted = {name for pattern in patterns for name in _matching(jobs, pattern)}
    for job in reversed(list(jobs.values())):
        if job.name in wanted:
            wanted.update(job.needs)
    return {name: job for name, job in jobs.items() if name in wanted}


def _matching(jobs: Mapping[str, Job], pattern: str) -> list[str]:
    whole = pattern.rstrip("/")
    found = [name for name in jobs if fnmatch.fnmatchcase(name, whole) or fnmatch.fnmatchcase(name, f"{whole}/*")]
    if not found:
        raise UserError(
            f"No cell is called {pattern!r}.",
            looked_for="names with * and ?, as --list shows them",
            found=shorten(jobs, 4),
            remedy=did_you_mean(pattern, jobs, "see them with --list", cutoff=0.4),
        )
    return found
