"""Expand a grid into jobs: a cell for each initialization, setting, dataset and seed, and what they start from.

Words hold placeholders. ``{labeled}`` is the dataset whose labels a setting gives: the source where there is one, else
the cell's own. ``{train}`` is the same, reduced to the setting's subset, of which ``{identities}``, ``{images}``,
``{subset_seed}`` and ``{list_file}`` are the arguments (``null`` for none). ``{seed}`` is the cell's. The name of a
preparation stands for its folder; ``{out}`` is the folder in its own command. A setting's command may also name
``{source}``, ``{target}``, and ``{needed}``, the run folder of the run that it needs.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffreid_lightning.benchmark.grid_entries import Grid, Initialization, Preparation, Setting, name_of
from diffreid_lightning.benchmark.jobs import FIRST_RUN, ROOT, Cell, Job, data_token, folder_of, job_settings, key_of
from diffreid_lightning.errors import UserError, nearest

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_OUT = "<out>"  # the folder that holds the key of the words, so these are hashed without it
_OF_SUBSET = {"identities": "identities", "images": "images", "subset_seed": "seed", "list_file": "list_file"}
_CELLS = ("fit", "test", "validate")
_RUNS = (*_CELLS, "predict")  # those that have a run folder


@dataclass
class _Filling:
    """Placeholders of one command, and what they turned out to stand for.

    Args:
        labeled: label of the dataset whose labels may be used.
        subset: arguments of its subset.
        seed: of the cell.
        values: further placeholders.
    """

    labeled: str
    subset: Mapping[str, Any]
    seed: int
    values: Mapping[str, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    datasets: set[str] = field(default_factory=set)
    made_from: set[str] = field(default_factory=set)
    made_from_all: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)  #: of ``data``, ``seed`` and the subset's placeholders, what it names
    inherited: set[str] = field(default_factory=set)  #: and those of the preparations that they name

    @property
    def used(self) -> set[str]:
        """Return what the result depends on."""
        return self.own | self.inherited

    @property
    def used_subset(self) -> dict[str, Any]:
        """Return the arguments of the subset that the result depends on."""
        return {key: self.subset[key] for name, key in _OF_SUBSET.items() if name in self.used and key in self.subset}

    @property
    def is_reduced(self) -> bool:
        """Return true if its words name all that the subset is made by, so that they see no more than the subset."""
        asked = {name for name, key in _OF_SUBSET.items() if self.subset.get(key, 0) != 0}
        return bool(asked) and asked <= self.own

    @property
    def train(self) -> str:
        """Return the training source as ``data.train`` takes it."""
        return training_source(self.labeled, self.subset)

    @property
    def parts(self) -> list[str]:
        """Return what tells the results of one preparation apart, as parts of a name."""
        used = self.used_subset
        subset = "-".join(name_of(f"{key} {value}") for key, value in self.subset.items() if key in used)
        data, seed = name_of(self.labeled) if "data" in self.used else "", f"seed-{self.seed}"
        return [part for part in (data, subset, seed if "seed" in self.used else "") if part]


def training_source(label: str, subset: Mapping[str, Any]) -> str:
    """Return a dataset, or a subset of it, as ``data.train`` takes it."""
    if not subset:
        return data_token(label)
    source = {"class_path": "Subset", "init_args": {"dataset": data_token(label), **subset}}
    return json.dumps(source, ensure_ascii=False)  # the token is replaced as text


def _subset_of(setting: Setting, seed: int) -> dict[str, Any]:
    """Return the arguments of a setting's subset, its seed that of the cell where ``{seed}`` stands for it."""
    return {key: seed if value == "{seed}" else value for key, value in setting.subset.items()}


def expand(grid: Grid) -> dict[str, Job]:
    """Return all jobs of a grid by name, each after those it needs; all of a seed come before those of the next.

    Raises:
        UserError: a command has an unknown placeholder, or a config that it names cannot be read.
    """
    expansion = _Expansion(grid)
    for seed, setting in itertools.product(grid.seeds, grid.settings.values()):
        for dataset, source in _columns(grid, setting):
            for row in grid.initializations.values():
                if _has_cells(row, setting):
                    expansion.cell(row, setting, dataset, source, seed)
    return expansion.jobs


def _refuse_unvalidated_end(settings: Mapping[str, Any], where: str) -> None:
    """Refuse a training whose last epoch is not validated: its results would be missing, or those of an earlier one."""
    where = f"{where[:1].upper()}{where[1:]}"
    for name in ("max_steps", "max_time"):
        limit = settings.get(f"trainer.{name}")
        if limit not in (None, -1):
            raise UserError(
                f"{where} may end within an epoch, and 'evaluate: val' compares whole ones.",
                found=f"trainer.{name} {limit}",
                remedy="give --trainer.max_epochs and, for its length, --data.sampler.init_args.batches",
            )
    epochs, every = (settings.get(f"trainer.{name}") for name in ("max_epochs", "check_val_every_n_epoch"))
    if isinstance(epochs, int) and isinstance(every, int) and epochs > 0 and every > 0 and epochs % every:
        raise UserError(
            f"{where} does not validate its last epoch, whose results 'evaluate: val' compares.",
            looked_for="a number of epochs that trainer.check_val_every_n_epoch divides",
            found=f"trainer.max_epochs {epochs}, trainer.check_val_every_n_epoch {every}",
            remedy="add --trainer.check_val_every_n_epoch '${trainer.max_epochs}' to its flags",
        )


def _has_cells(row: Initialization, setting: Setting) -> bool:
    """Return true if a setting is one of the row's; random weights are not evaluated as they are."""
    trained = setting.words[0] == "fit" or setting.needs is not None
    return (not row.settings or setting.label in row.settings) and (trained or not row.is_random)


def _columns(grid: Grid, setting: Setting) -> Iterator[tuple[str, str | None]]:
    """Yield the datasets of a setting: (own or target, source or None)."""
    if not setting.on_source:
        yield from ((label, None) for label in grid.datasets)
        return
    pairs = setting.pairs or itertools.permutations(grid.datasets, 2)
    yield from ((target, source) for source, target in pairs)


class _Expansion:
    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.jobs: dict[str, Job] = {}
        self._fillings: dict[str, _Filling] = {}
        self._open: list[str] = []

    def cell(self, row: Initialization, setting: Setting, dataset: str, source: str | None, seed: int) -> Job:
        """Return the job of a cell, with those it needs before it."""
        place = name_of(dataset) if source is None else f"{name_of(source)}-to-{name_of(dataset)}"
        name = "/".join((name_of(row.label), name_of(setting.label), place, f"seed-{seed}"))
        if name in self.jobs:
            return self.jobs[name]
        filling = _Filling(source or dataset, _subset_of(setting, seed), seed)
        filling.datasets.update(label for label in (dataset, source) if label is not None)
        filling.made_from.update(row.made_from)
        filling.made_from_all.update(row.made_from)
        if setting.needs is not None:
            before = self.cell(row, self.grid.settings[setting.needs], source or dataset, None, seed)
            self._go_back(filling, before)
            filling.values = {"needed": f"{ROOT}/{before.folder}/{FIRST_RUN}"}
        filling.values = {**filling.values, "target": data_token(dataset)}
        if source is not None:
            filling.values = {**filling.values, "source": data_token(source)}
        words, weights = self._cell_words(row, setting, dataset, filling)
        seen = filling.made_from if setting.hides_labels else filling.made_from_all if setting.subset else ()
        cell = Cell(row.label, setting.label, dataset, source, seed, dataset in seen, self.grid.evaluate)
        return self._add(name, words, filling, weights, setting.subset.get("list_file"), cell)

    def _cell_words(
        self, row: Initialization, setting: Setting, dataset: str, filling: _Filling
    ) -> tuple[list[str], str | None]:
        """Return the command of a cell, and the path from elsewhere that it starts from."""
        where = f"the setting {setting.label!r}"
        words = [self._fill(word, filling, where) for word in setting.words]
        if words[0] not in _CELLS:
            looked_for = "fit, test or validate"
            raise UserError(f"The command of {where} is no training or test.", looked_for=looked_for, found=words[0])
        added, start = {"data.test": data_token(dataset)}, None
        # A test of the initialization as it is has the data of a training.
        if words[0] == "fit" or setting.needs is None:
            further = (*self.grid.flags, *self.grid.datasets[dataset].flags, *setting.flags.get(dataset, ()))
            words += [self._fill(word, filling, f"{where}, among its flags") for word in further]
            words += [self._fill(word, filling, f"the row {row.label!r}") for word in row.flags]
            if not _has(words, "data.target"):
                added["data.train"] = training_source(dataset, filling.subset)
            added["seed_everything"] = str(filling.seed)
            if self.grid.evaluate == "val":
                settings = job_settings(words)
                if words[0] == "fit":
                    added["test_with"] = "none"
                    _refuse_unvalidated_end(settings, f"{where} from {row.label!r}")
                # Without the setting its class decides, and UnlabeledDataModule holds nobody out.
                if not settings.get("data.init_args.val_share"):
                    added["data.val_share"] = "null"
            if setting.needs is None:
                start = self._start(row, filling)
                added["model.init_from"] = start or "null"
        words += [f"--{flag}={value}" for flag, value in sorted(added.items()) if not _has(words, flag)]
        return [*words, f"--trainer.default_root_dir={_OUT}"], start if start == row.init_from else None

    def _start(self, row: Initialization, filling: _Filling) -> str | None:
        """Return what the training of a cell starts from; None for random weights."""
        if row.pretrained_on is not None:
            job = self._pretraining(row, row.pretrained_on, filling)
            self._go_back(filling, job)
            return f"{ROOT}/{job.folder}/{FIRST_RUN}/backbone"
        return None if row.init_from is None else self._fill(row.init_from, filling, f"the row {row.label!r}")

    def _pretraining(self, row: Initialization, images: str, outer: _Filling) -> Job:
        """Return the job that pre-trains a row on its images, as its cells are trained but for the command."""
        start = () if row.init_from is None else ("--model.init_from", row.init_from)
        held_out = ("--data.val_share", "null") if self.grid.evaluate == "val" else ()  # {train} has people of val, too
        words = (*self.grid.pretrain, "--data.train", images, "--seed_everything", "{seed}", *start, *held_out)
        entry = Preparation((*words, *self.grid.flags, *row.flags))
        weights, elsewhere = (
            each if each and not _PLACEHOLDER.search(each) else None for each in (row.init_from, images)
        )
        return self._prepare(f"pre-trained/{name_of(row.label)}", entry, outer, weights, elsewhere)

    def preparation(self, name: str, outer: _Filling) -> Job:
        """Return the job of a preparation for the cell of ``outer``, with those it needs before it."""
        if name in self._open:
            raise UserError(f"Preparations need each other in a circle: {' -> '.join([*self._open, name])}")
        self._open.append(name)
        job = self._prepare(name, self.grid.preparations[name], outer)
        self._open.pop()
        return job

    def _prepare(
        self,
        name: str,
        entry: Preparation,
        outer: _Filling,
        weights: str | None = None,
        images: str | None = None,
    ) -> Job:
        filling = _Filling(outer.labeled, outer.subset, outer.seed, {"out": _OUT})
        words = [self._fill(word, filling, f"{name!r}, which is made first") for word in entry.words]
        if words[0] in _RUNS and not _has(words, "trainer.default_root_dir"):
            words.append(f"--trainer.default_root_dir={_OUT}")
        if "data" in filling.own:
            filling.datasets.add(filling.labeled)
            filling.made_from.update({filling.labeled} if entry.labels else ())
            if entry.labels and not filling.is_reduced:
                filling.made_from_all.add(filling.labeled)
        full = "/".join(("made", name, *filling.parts))
        before = self._fillings.setdefault(full, filling)
        if before.used_subset != filling.used_subset:
            raise UserError(
                f"Two subsets would be made in one folder, {full}.",
                found=f"{before.used_subset} and {filling.used_subset}",
                remedy="rename a list so that they differ in letters or digits",
            )
        if full not in self.jobs:
            self._add(full, words, filling, weights, filling.used_subset.get("list_file"), images=images)
        # Settings that give it the same words share a job; what it sees beyond their subsets differs.
        return replace(self.jobs[full], made_from_all=frozenset(filling.made_from_all))

    def _add(
        self,
        name: str,
        words: list[str],
        filling: _Filling,
        weights: str | None,
        list_file: str | None,
        cell: Cell | None = None,
        images: str | None = None,
    ) -> Job:
        key = key_of(words, list_file, (weights, images))
        folder = f"{ROOT}/{folder_of(name, key)}"
        job = Job(
            name=name,
            words=tuple(word.replace(_OUT, folder) for word in words),
            needs=tuple(dict.fromkeys(filling.needs)),
            datasets=frozenset(filling.datasets),
            made_from=frozenset(filling.made_from),
            made_from_all=frozenset(filling.made_from_all),
            weights=weights,
            images=images,
            key=key,
            cell=cell,
        )
        self.jobs[name] = job
        return job

    def _fill(self, text: str, filling: _Filling, where: str) -> str:
        return _PLACEHOLDER.sub(lambda found: self._value(found[1], filling, where), text)

    def _value(self, name: str, filling: _Filling, where: str) -> str:
        """Return what a placeholder stands for, and note what the command depends on by it."""
        if name in filling.values:
            return filling.values[name]
        if name == "seed":
            filling.own.add("seed")
            return str(filling.seed)
        if name in ("labeled", "train"):
            filling.own.update(("data", *_OF_SUBSET) if name == "train" else ("data",))
            return data_token(filling.labeled) if name == "labeled" else filling.train
        if name in _OF_SUBSET:
            filling.own.add(name)
            value = filling.subset.get(_OF_SUBSET[name], 0 if name == "subset_seed" else None)
            return "null" if value is None else str(value)
        if name in self.grid.preparations:
            job = self.preparation(name, filling)
            self._go_back(filling, job)
            filling.inherited |= self._fillings[job.name].used
            return f"{ROOT}/{job.folder}"
        known = ("labeled", "train", "seed", *_OF_SUBSET, *filling.values, *self.grid.preparations)
        guess = nearest(name, known)
        raise UserError(
            f"{{{name}}} in the command of {where} stands for nothing.",
            looked_for=", ".join(f"{{{each}}}" for each in known),
            remedy=f"did you mean {{{guess}}}?" if guess else "add a preparation of that name",
        )

    @staticmethod
    def _go_back(filling: _Filling, before: Job) -> None:
        filling.needs.append(before.name)
        filling.datasets.update(before.datasets)
        filling.made_from.update(before.made_from)
        filling.made_from_all.update(before.made_from_all)


def _has(words: list[str], flag: str) -> bool:
    return any(word.partition("=")[0] == f"--{flag}" for word in words)
