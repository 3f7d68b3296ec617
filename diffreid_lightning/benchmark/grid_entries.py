"""Entries of a benchmark's grid: initializations, settings, datasets, and what makes the initializations.

Their values are YAML: a new setting is an entry below ``settings:`` in ``configs/benchmark/``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Split = Literal["test", "val"]
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Preparation:
    """A command that makes what cells start from.

    Args:
        words: the command, with placeholders.
        labels: whether it reads the identities of the dataset it is made for.
    """

    words: tuple[str, ...]
    labels: bool = True


@dataclass(frozen=True)
class Initialization:
    """A row: what networks start from.

    Args:
        label: in the table.
        init_from: value of ``model.init_from``, with placeholders; None for random weights.
        pretrained_on: images that the grid's command pre-trains on from ``init_from``, with placeholders; None to
            start the cells from ``init_from`` itself.
        flags: further words of every ``fit``, with placeholders.
        made_from: labels of the datasets whose labels all went into the weights; those of preparations are known.
        settings: labels of the settings that it has cells in; empty for all.
        against: label of the row that it is compared with; None for the grid's.
        note: a sentence for the table's caption.
    """

    label: str
    init_from: str | None = None
    pretrained_on: str | None = None
    flags: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    against: str | None = None
    note: str = ""

    @property
    def is_random(self) -> bool:
        """Return true if nothing has been trained yet where its cells start."""
        return self.init_from is None and self.pretrained_on is None


@dataclass(frozen=True)
class Throughput:
    """Measured speed of training, from which durations are estimated.

    Args:
        images_per_second: in training, loading and evaluation included.
        device: what it was measured on.
        source: who measured it, and where that stands.
    """

    images_per_second: float
    device: str
    source: str


@dataclass(frozen=True)
class Setting:
    """A group of columns: how networks are trained and evaluated.

    Args:
        label: in the table.
        words: the command of a cell, with placeholders.
        subset: arguments of :class:`~diffreid_lightning.datasets.Subset` that the training rows are reduced by.
        needs: label of the setting whose run of the same initialization and seed comes before; None for none.
        on_source: labels come from another dataset, the source, and so does the needed run; the cell's own dataset is
            the target.
        labels: whether the identities of the cell's own dataset are used; a target's are not.
        pairs: (source, target) labels; empty for every ordered pair of datasets.
        flags: further words for single datasets, by label.
        throughput: its own speed; None for the grid's.
    """

    label: str
    words: tuple[str, ...]
    subset: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    on_source: bool = False
    labels: bool = True
    pairs: tuple[tuple[str, str], ...] = ()
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    throughput: Throughput | None = None

    @property
    def hides_labels(self) -> bool:
        """Return true if it keeps the labels of the dataset that a cell is tested on from the cell."""
        return self.on_source or not self.labels


@dataclass(frozen=True)
class Dataset:
    """A dataset of the grid.

    Args:
        label: in the table.
        path: as ``data.train`` takes it: a folder, a .zip, a table, or ``miniperson``.
        flags: further words of every ``fit`` that trains on it.
        images: number of training images, for estimates where the data are not at hand.
    """

    label: str
    path: str
    flags: tuple[str, ...] = ()
    images: int | None = None


@dataclass(frozen=True)
class Published:
    """A row of published numbers.

    Args:
        label: of the row.
        cite: the paper.
        numbers: (mAP, Rank-1) in percent by setting and dataset, NaN for one that is not published; a target is named
            ``SOURCE to TARGET``.
    """

    label: str
    cite: str
    numbers: Mapping[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True)
class Grid:
    """A whole benchmark.

    Args:
        root: folder of everything that is made.
        group: W&B group of its runs.
        seeds: of the runs of each cell.
        against: label of the initialization that the others are compared with, but for those that name another.
        flags: further words of every ``fit`` of a cell or row.
        pretrain: the command that pre-trains a row on its images; empty if no row does.
        preparations: by name.
        initializations: the rows, by label.
        settings: by label.
        datasets: by label.
        published: rows of published numbers.
        evaluate: ``test`` on query and gallery, or ``val`` on held-out identities, to choose among rows.
        throughput: measured speed; None if durations are not estimated.
        slurm: parameters of submitit's executor.
    """

    root: Path
    group: str
    seeds: tuple[int, ...]
    against: str
    flags: tuple[str, ...]
    pretrain: tuple[str, ...]
    preparations: Mapping[str, Preparation]
    initializations: Mapping[str, Initialization]
    settings: Mapping[str, Setting]
    datasets: Mapping[str, Dataset]
    published: tuple[Published, ...] = ()
    evaluate: Split = "test"
    throughput: Throughput | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)


def name_of(label: str) -> str:
    """Return a label as a part of a file's name: lower-case letters, digits and hyphens."""
    return _NOT_IN_A_NAME.sub("-", label.lower()).strip("-")
