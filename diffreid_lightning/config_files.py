"""Configuration files in layers: the embedded default below, each ``--config`` above the one before it.

A mapping that names a ``class_path`` replaces what lay below it whole, so nothing of the default's arguments is left
over; any other mapping merges key by key; lists and values replace. Where a lower layer names the class, its arguments
may stand without ``init_args``, and ``key+`` adds to its list. References (``${...}``) are resolved later, see
:mod:`~diffreid_lightning.cli.references`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yaml import safe_load

from diffreid_lightning import former_names
from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.packaged import configs_folder
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.yaml_files import parse_yaml, read_yaml

DEFAULT = "default.yaml"
_DEFAULTS = {"select": "stages/select.yaml"}  # of commands that do not lie over the common one
_FLAGS = ("--config", "-c")
_SECTIONS = ("trainer", "model", "data")
#: the keys by which a mapping says which class it configures, and how
STRUCTURE = ("class_path", "init_args", "dict_kwargs")


def find_config(name: str) -> Path:
    """Return the file meant by ``name``: a path, or the name of a config that comes with the package.

    Args:
        name: a path to a YAML file, or a packaged one such as ``recipes/bot_market1501`` (suffix optional).

    Raises:
        UserError: neither exists; the message names the nearest packaged config.
    """
    folder = configs_folder()
    stem = name.removeprefix("configs/")
    candidates = [user_path(name), folder / stem, folder / f"{stem}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    packaged = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    # A name without its folder is compared with those without theirs; the suffix alone makes nothing alike.
    by_file = {path.rpartition("/")[2]: path for path in packaged}
    bare = stem.removesuffix(".yaml").removesuffix(".yml")
    close = nearest(bare.rpartition("/")[2], by_file, cutoff=0.6)
    guess = nearest(bare, packaged, cutoff=0.6) or (by_file[close] if close else None)
    raise UserError(
        f"There is no config {name!r}.",
        looked_for=f"{candidates[0].absolute()}, then {stem!r} among the packaged configs",
        found=f"packaged configs: {shorten(packaged)}",
        remedy=f"did you mean --config {guess}?" if guess else "pass the path of a YAML file or one of these names",
    )


def load_config(path: Path) -> dict[str, Any]:
    """Read one YAML file with omegaconf.

    Raises:
        UserError: the file is not YAML, or its top level is not a mapping.
    """
    try:
        loaded = read_yaml(path)
    except (ValueError, OSError) as error:
        raise UserError(
            f"The config {path} cannot be read as YAML.",
            found=str(error),
            remedy="mend the line that is named (indentation, colons and tabs are the usual reasons)",
        ) from error
    if not isinstance(loaded, dict):
        raise UserError(
            f"The config {path} holds no settings.",
            looked_for="a mapping such as 'trainer:', 'model:' and 'data:' at its top level",
            found=f"a {type(loaded).__name__}",
            remedy="start from the default: python -m diffreid_lightning fit --print_config > my.yaml",
        )
    # A section whose lines are all commented out is no order to forget the layers below it.
    settings = former_names.current(_with_text_keys(loaded))
    return {key: value for key, value in settings.items() if value is not None or key not in _SECTIONS}


def _with_text_keys(node: Any) -> Any:
    """Make all keys texts: YAML reads ``2024:`` as a number."""
    if isinstance(node, Mapping):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    return [_with_text_keys(value) for value in node] if isinstance(node, list) else node


def load_layers(command: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Load the configs of a command, from the lowest to the topmost: its default, then each of ``names``.

    Raises:
        UserError: one of them cannot be found or read.
    """
    default = configs_folder() / _DEFAULTS.get(command, DEFAULT)
    return [load_config(file) for file in (default, *map(find_config, names))]


def merge_layers(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``upper`` over ``lower`` by the rule at the head of this file; neither is changed."""
    merged = dict(lower)
    for name, value in upper.items():
        key = name.removesuffix("+")
        below = merged.get(key)
        if value is None and key == "init_args" and isinstance(below, Mapping):
            continue  # nothing stands under it: its lines are commented out
        if key != name:
            merged[key] = [*_listed(below), *_listed(value)]
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and "class_path" not in value:
            merged[key] = merge_layers(below, _as_arguments(value) if "class_path" in below else value)
        else:
            merged[key] = value
    return merged


def written_leaves(layers: Sequence[Mapping[str, Any]], words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that are written in configs and flags, by dotted name; references stay as they are.

    Args:
        layers: the configs, from the lowest to the topmost.
        words: the flags; one without ``=`` has its value in the next word, and any other word is passed over.
    """
    nothing: dict[str, Any] = {}
    found = functools.reduce(merge_layers, layers, nothing)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            setting: Any = plain_value(value if equals else following)
            for key in reversed(flag.removeprefix("--").split(".")):
                setting = {key: setting}
            found = merge_layers(found, setting)
    return dict(leaves(found))


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command that are written in its configs and flags, by dotted name.

    Args:
        words: the command, then its arguments.

    Raises:
        UserError: a config cannot be found or read.
    """
    names, flags = split_config_flags(words)
    return written_leaves(load_layers(words[0], names), flags)


def plain_value(word: str) -> Any:
    """Read a value as YAML; what is none is text."""
    try:
        return parse_yaml(word)
    except ValueError:
        return word


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _as_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``{lr: 0.1}`` for a class that a lower layer names as ``{init_args: {lr: 0.1}}``, as flags have it."""
    structure = {key: value for key, value in given.items() if key in STRUCTURE}
    rest = {key: value for key, value in given.items() if key not in STRUCTURE}
    return merge_layers(structure, {"init_args": rest}) if rest else structure


def split_config_flags(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split command-line arguments into the values of ``--config``/``-c`` and all the rest, both in order.

    Raises:
        UserError: ``--config`` is the last word, with no file after it.
    """
    names: list[str] = []
    rest: list[str] = []
    queue = list(args)
    while queue:
        word = queue.pop(0)
        flag, _, value = word.partition("=")
        if flag not in _FLAGS:
            rest.append(word)
        elif value:
            names.append(value)
        elif queue:
            names.append(queue.pop(0))
        else:
            raise UserError(f"{flag} has no file after it.", remedy=f"write {flag} FILE.yaml")
    return names, rest


class Change(NamedTuple):
    """A setting that is no longer what it was."""

    key: str  #: dotted, with the places of lists: ``trainer.callbacks.0.init_args.monitor``
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} {self.before} -> {self.now}"


def changed_settings(before: str, now: str) -> list[Change]:
    """List the settings in which two configurations differ.

    Args:
        before: the configuration of a run, as YAML; where it cannot be read, nothing is known to have changed.
        now: another one, as YAML.
    """
    try:
        loaded = parse_yaml(before)
    except ValueError:
        return []
    if not isinstance(loaded, dict):
        return []
    old, new = (dict(leaves(former_names.current(settings))) for settings in (loaded, safe_load(now)))
    for key in old.keys() & new.keys():
        # A class that moved to another module is the same class.
        if key.endswith("class_path") and str(old[key]).rpartition(".")[2] == str(new[key]).rpartition(".")[2]:
            old[key] = new[key]
    keys = [key for key in {**old, **new} if key != "ckpt_path" and old.get(key) != new.get(key)]
    return [Change(key, old.get(key), new.get(key)) for key in keys]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a nested configuration: dotted keys and plain values; a list is walked where it holds mappings."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from leaves(below, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def texts(settings: Any) -> Iterator[str]:
    """Find texts and paths at any depth of a configuration."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from texts(value)
    elif isinstance(settings, (str, Path)):
        yield str(settings)
