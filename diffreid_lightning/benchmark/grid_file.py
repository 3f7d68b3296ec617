"""Read a grid from YAML: its initializations, settings, datasets and seeds, and what is to be compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffreid_lightning.benchmark.grid_entries import (
    Dataset,
    Grid,
    Initialization,
    Preparation,
    Published,
    Setting,
    Split,
    Throughput,
    name_of,
)
from diffreid_lightning.config_files import find_config, load_config, merge_layers
from diffreid_lightning.errors import UserError, check_range, check_seed, did_you_mean, nearest
from diffreid_lightning.paths import user_path
from diffreid_lightning.pipeline.config_sections import mapping_at, names_at, refuse_unknown_keys, split_words, text_at

_KEYS = (
    "root", "group", "seeds", "against", "flags", "pretrain", "preparations", "initializations", "settings",
    "datasets", "published", "evaluate", "throughput", "slurm",
)  # fmt: skip
_SOURCE = "source"
_ON_SOURCE = f"@{_SOURCE}"
_SUBSET = ("identities", "images", "seed", "list_file")
#: placeholders that a preparation's name would hide
RESERVED = (
    "labeled", "train", "identities", "images", "subset_seed", "list_file", "seed", "out", "needed", "source", "target",
)  # fmt: skip


def read_grid(names: Sequence[str], root: str | None = None) -> Grid:
    """Read a grid from YAML files laid over each other; an entry that is null is left out.

    Args:
        names: paths, or names of packaged configs such as ``benchmark/quick``.
        root: folder of everything that is made, in place of the config's.

    Raises:
        UserError: a file cannot be read, or says something that a grid does not have.
    """
    where = ", ".join(names)
    given = _resolved(names, where)
    refuse_unknown_keys(given, _KEYS, where)
    settings = _entries(given, "settings", where, _setting)
    seeds = _seeds(given.get("seeds", [0]), where)
    place = user_path(root or text_at(given, "root", where) or "runs/benchmark")
    initializations = _entries(given, "initializations", where, _initialization)
    grid = Grid(
        root=place,
        group=text_at(given, "group", where) or place.name,
        seeds=seeds,
        against=text_at(given, "against", where) or next(iter(initializations), ""),
        flags=_words(given, "flags", where),
        pretrain=_words(given, "pretrain", where),
        preparations=_entries(given, "preparations", where, _preparation),
        initializations=initializations,
        settings=settings,
        datasets=_entries(given, "datasets", where, _dataset),
        published=tuple(_published(entry, where) for entry in _listed(given, "published", where)),
        evaluate=_choice(given, "evaluate", where, get_args(Split)),
        throughput=_throughput(given, where),
        slurm=mapping_at(given, "slurm", where),
    )
    _check(grid, where)
    return grid


def _resolved(names: Sequence[str], where: str) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for name in names:
        layers = merge_layers(layers, load_config(find_config(name)))
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(layers), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"A reference in {where} cannot be resolved.",
            looked_for="${...} with the path of a setting, or ${oc.env:NAME,DEFAULT}",
            found=str(error).splitlines()[0],
            remedy="set the variable, or give a default behind a comma",
        ) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _entries(given: Mapping[str, Any], key: str, where: str, read: Any) -> dict[str, Any]:
    """Read the entries of a section; those that are null are left out."""
    section = mapping_at(given, key, where)
    return {
        str(label): read(str(label), entry, f"{key}.{label} of {where}")
        for label, entry in section.items()
        if entry is not None
    }


def _mapping(entry: Any, where: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is no mapping.", looked_for=f"keys among {', '.join(known)}", found=repr(entry))
    refuse_unknown_keys(entry, known, where)
    return entry


def _listed(given: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = given.get(key) or []
    if not isinstance(value, list):
        raise UserError(f"{key!r} of {where} is no list.", looked_for=f"{key}: [...]", found=repr(value))
    return value


def _words(given: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    return split_words(text_at(given, key, where) or "", where)


def _run(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    words = _words(entry, "run", where)
    if not words:
        raise UserError(f"{where} says nothing to run.", looked_for="run: COMMAND --config CONFIG", found=repr(entry))
    return words


def _preparation(label: str, entry: Any, where: str) -> Preparation:
    if not re.fullmatch(r"\w+", label) or label in RESERVED:
        raise UserError(
            f"A preparation cannot be called {label!r}.",
            looked_for=f"letters, digits and underscores, and none of {', '.join(RESERVED)}",
            remedy="rename it: its name is a placeholder in the commands that use it",
        )
    entry = _mapping(entry, where, ("run", "labels"))
    return Preparation(_run(entry, where), _choice(entry, "labels", where, (True, False)) is True)


def _initialization(label: str, entry: Any, where: str) -> Initialization:
    entry = _mapping(entry, where, ("init_from", "pretrained_on", "flags", "made_from", "settings", "against", "note"))
    starts = {key: text_at(entry, key, where) for key in ("init_from", "pretrained_on")}
    for key, text in starts.items():
        if text is not None and not text.strip():
            raise UserError(f"{key!r} of {where} is empty.", remedy="give a path, or null for none")
    return Initialization(
        label=label,
        **starts,
        flags=_words(entry, "flags", where),
        made_from=names_at(entry, "made_from", where),
        settings=names_at(entry, "settings", where),
        against=text_at(entry, "against", where),
        note=text_at(entry, "note", where) or "",
    )


def _setting(label: str, entry: Any, where: str) -> Setting:
    entry = _mapping(entry, where, ("run", "subset", "needs", "labels", "pairs", "flags", "throughput"))
    needs = text_at(entry, "needs", where)
    labels = _choice(entry, "labels", where, (True, False, _SOURCE))
    pairs = _listed(entry, "pairs", where)
    if not all(isinstance(pair, list) and len(pair) == len(set(map(str, pair))) == 2 for pair in pairs):
        looked_for = "[[SOURCE, TARGET], ...], each of two different datasets"
        raise UserError(f"'pairs' of {where} is no list of pairs.", looked_for=looked_for, found=repr(pairs))
    flags = mapping_at(entry, "flags", where)
    return Setting(
        label=label,
        words=_run(entry, where),
        subset=_subset(entry, where),
        needs=None if needs is None else needs.removesuffix(_ON_SOURCE),
        on_source=labels == _SOURCE or (needs or "").endswith(_ON_SOURCE),
        labels=labels is True,
        pairs=tuple((str(source), str(target)) for source, target in pairs),
        flags={str(key): _words(flags, key, f"the flags of {where}") for key in flags},
        throughput=_throughput(entry, where),
    )


def _choice(entry: Mapping[str, Any], key: str, where: str, known: Sequence[bool | str]) -> Any:
    """Return an entry that is one of some words, the first where there is none."""
    value = entry.get(key, known[0])
    if not any(value is each or (isinstance(each, str) and value == each) for each in known):
        named = " or ".join(str(each).lower() for each in known)
        raise UserError(f"{key!r} of {where} is unknown.", looked_for=named, found=repr(value))
    return value


def _subset(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    where = f"the subset of {where}"
    subset = mapping_at(entry, "subset", where)
    refuse_unknown_keys(subset, _SUBSET, where)
    for key, value in subset.items():
        text = isinstance(value, str) and (value == "{seed}" if key == "seed" else key == "list_file")
        number = isinstance(value, (int,) if key == "seed" else (int, float)) and not isinstance(value, bool)
        if value is not None and not text and (key == "list_file" or not number):
            looked_for = {"list_file": "list_file: FILE", "seed": 'a whole number, or "{seed}"'}.get(key, "a number")
            raise UserError(f"{key!r} of {where} cannot be used.", looked_for=looked_for, found=repr(value))
    return {key: value for key, value in subset.items() if value is not None}


def _dataset(label: str, entry: Any, where: str) -> Dataset:
    if isinstance(entry, str):
        return Dataset(label, entry)
    entry = _mapping(entry, where, ("path", "flags", "images"))
    path = entry.get("path")
    if not isinstance(path, str):
        raise UserError(f"{where} has no path.", looked_for="path: FOLDER, or miniperson", found=repr(dict(entry)))
    images = entry.get("images")
    if images is not None and type(images) is not int:
        raise UserError(f"'images' of {where} is no whole number.", found=repr(images))
    check_range(f"images of {where}", images, 1)
    return Dataset(label, path, _words(entry, "flags", where), images)


def _published(entry: Any, where: str) -> Published:
    where = f"published of {where}"
    entry = _mapping(entry, where, ("label", "cite", "numbers"))
    numbers: dict[tuple[str, str], tuple[float, float]] = {}
    for setting, columns in mapping_at(entry, "numbers", where).items():
        for dataset, pair in mapping_at({"columns": columns}, "columns", where).items():
            if not isinstance(pair, list) or len(pair) != 2 or not all(_is_percentage(value) for value in pair):
                raise UserError(
                    f"{where} is not mAP and Rank-1 in percent.",
                    looked_for="DATASET: [mAP, Rank-1], null for one that is not published",
                    found=f"{dataset}: {pair!r}",
                )
            mean, rank1 = (math.nan if value is None else float(value) for value in pair)
            numbers[str(setting), str(dataset)] = (mean, rank1)
    return Published(text_at(entry, "label", where) or "", text_at(entry, "cite", where) or "", numbers)


def _is_percentage(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and 0 <= value <= 100)


def _throughput(given: Mapping[str, Any], where: str) -> Throughput | None:
    if given.get("throughput") is None:
        return None
    where = f"throughput of {where}"
    entry = _mapping(given["throughput"], where, ("images_per_second", "device", "source"))
    speed = entry.get("images_per_second")
    if (
        not isinstance(speed, (int, float))
        or isinstance(speed, bool)
        or not entry.get("device")
        or not entry.get("source")
    ):
        raise UserError(
            f"{where} is not a measurement.",
            looked_for="images_per_second: NUMBER, device: NAME, source: who measured it",
            found=repr(dict(entry)),
        )
    check_range(f"images_per_second of {where}", speed, 0, above=True)
    return Throughput(float(speed), str(entry["device"]), str(entry["source"]))


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(seed) is int for seed in value):
        raise UserError(f"'seeds' of {where} is no list of numbers.", looked_for="seeds: [0, 1, 2]", found=repr(value))
    for seed in value:
        check_seed(f"a seed of {where}", seed)
    if len(set(value)) < len(value):
        raise UserError(f"'seeds' of {where} names one twice.", found=repr(value))
    return tuple(value)


def _check(grid: Grid, where: str) -> None:
    for key in ("initializations", "settings", "datasets"):
        entries = getattr(grid, key)
        if not entries:
            raise UserError(f"The grid of {where} has no {key}.", looked_for=f"{key}: {{LABEL: ...}}")
        by_name: dict[str, str] = {}
        for label in entries:
            other = by_name.setdefault(name_of(label), label)
            if other != label or not name_of(label):
                raise UserError(
                    f"A label among the {key} of {where} makes no name of its own.",
                    looked_for="labels that differ in letters or digits",
                    found=f"{other!r} and {label!r}" if other != label else repr(label),
                    remedy="rename it: cells and folders are named by their labels",
                )
    if "made" in map(name_of, grid.initializations):
        raise UserError(f"An initialization of {where} is called 'made', as the folder of preparations is.")
    _refuse_unknown_label(grid.against, grid.initializations, f"'against' of {where}")
    for initialization in grid.initializations.values():
        if initialization.pretrained_on is not None and grid.pretrain[:1] != ("fit",):
            raise UserError(
                f"The row {initialization.label!r} of {where} is pre-trained, but no command says how.",
                looked_for="pretrain: fit --config CONFIG, beside 'initializations'",
                found=f"pretrain: {' '.join(grid.pretrain) or 'null'}",
            )
        if initialization.against is not None:
            where_named = f"'against' of {initialization.label!r} in {where}"
            _refuse_unknown_label(initialization.against, grid.initializations, where_named)
        for name in initialization.made_from:  # other names are of data outside the grid
            guess = None if name in grid.datasets else nearest(name, grid.datasets, cutoff=0.8)
            if guess is not None and not name.startswith(guess) and not guess.startswith(name):
                raise UserError(
                    f"'made_from' of {initialization.label!r} in {where} names no dataset of the grid.",
                    found=repr(name),
                    remedy=f"did you mean {guess!r}? If it is another dataset, give it a name that is less alike",
                )
        for label in initialization.settings:
            _refuse_unknown_label(label, grid.settings, f"the settings of {initialization.label!r} in {where}")
    for setting in grid.settings.values():
        if setting.words[0] == {"val": "test", "test": "validate"}[grid.evaluate]:
            raise UserError(
                f"The setting {setting.label!r} of {where} is not evaluated by 'evaluate: {grid.evaluate}'.",
                looked_for="run: fit ..., or, for weights as they are, "
                + ("run: validate ..." if grid.evaluate == "val" else "run: test ..."),
                found=f"run: {' '.join(setting.words)}",
                remedy="leave the setting out (null), or change 'evaluate'",
            )
        if grid.evaluate == "val" and setting.words[0] == "validate" and setting.needs is not None:
            raise UserError(
                f"The setting {setting.label!r} of {where} would be validated on the data of {setting.needs!r}.",
                looked_for="a setting that trains, or weights as they are (run: validate ..., without 'needs')",
                found=f"needs: {setting.needs}, which has held-out people of its own dataset",
                remedy="leave the setting out (null), or change 'evaluate'",
            )
        if setting.needs is not None:
            _refuse_unknown_label(setting.needs, grid.settings, f"'needs' of {setting.label!r} in {where}")
            _refuse_chain(grid, setting, where)
        for label in (*(label for pair in setting.pairs for label in pair), *setting.flags):
            _refuse_unknown_label(label, grid.datasets, f"the setting {setting.label!r} of {where}")


def _refuse_chain(grid: Grid, setting: Setting, where: str) -> None:
    """Refuse a setting whose needed one is no training from an initialization: one run before it is all there is."""
    assert setting.needs is not None
    needed = grid.settings[setting.needs]
    if needed.needs is not None or needed.words[0] != "fit":
        raise UserError(
            f"The setting {setting.label!r} of {where} cannot need {setting.needs!r}.",
            looked_for="a setting that starts from an initialization and runs fit",
            found=f"run: {' '.join(needed.words)}" + (f", needs: {needed.needs}" if needed.needs else ""),
        )


def _refuse_unknown_label(label: str, known: Mapping[str, Any], where: str) -> None:
    if label not in known:
        raise UserError(
            f"There is no {label!r}, which is named by {where}.",
            found=f"known: {', '.join(known)}",
            remedy=f"{did_you_mean(label, known, '')} Add it to the grid, or leave out what names it (null).".strip(),
        )
