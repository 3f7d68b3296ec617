"""Read the flags of a command line (``--section.name VALUE``) and lay them over the settings of the config files.

Values stay text, which the parser converts by the type of their setting; only what describes classes (``{class_path:
...}``, a list of such, the path of a YAML file that holds one) is read here, because it merges with what lies below.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffreid_lightning.cli.config_classes import read_word, resolve
from diffreid_lightning.config_files import STRUCTURE, load_config, load_layers, merge_layers, split_config_flags
from diffreid_lightning.errors import UserError

_SECTIONS = ("trainer", "model", "data")
_PRINT_CONFIG = "--print_config"


def split_flags(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split a command line into settings and what asks the parser for something (``--help``, ``--print_config``).

    Args:
        words: the command line without its ``--config``.

    Returns:
        ``(name, value)`` of each setting in order, and the other words.

    Raises:
        UserError: a flag has no value after it, or a word belongs to no flag.
    """
    queue, settings, asked = list(words), [], []
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if word == "-h" or name in ("--help", _PRINT_CONFIG):
            asked.append(word)
        elif name.startswith("--") and name.endswith(".help"):
            asked.append(word)
            if not equals and queue and not queue[0].startswith("-"):
                asked.append(queue.pop(0))
        elif not word.startswith("-"):
            raise UserError(f"{word!r} is not an option.", remedy="write settings as --section.name VALUE")
        elif equals:
            settings.append((name.lstrip("-"), value))
        elif not queue or queue[0].startswith("--"):
            raise UserError(f"{word} has no value after it.", remedy=f"write {word} VALUE")
        else:
            settings.append((name.lstrip("-"), queue.pop(0)))
    return settings, asked


def written_settings(command: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a command line, references unresolved, and the words that ask the parser for something.

    Args:
        command: ``fit``, ``predict``, ``select``, ...
        words: the words after it.

    Raises:
        UserError: a config cannot be found or read, or a word belongs to no flag.
    """
    names, rest = split_config_flags(words)
    given, asked = split_flags(rest)
    layers: Sequence[dict[str, Any]] = load_layers(command, names)
    return with_flags(functools.reduce(merge_layers, layers), given), asked


def with_flags(settings: Mapping[str, Any], flags: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Lay flags over a nested configuration; ``settings`` is not changed.

    ``--name+ VALUE`` appends to a list, and a flag below a list speaks of its last entry. A flag that names the class
    that is already there changes nothing; one that names another class replaces the section whole.

    Args:
        settings: the configuration.
        flags: ``(name, value)``, as :func:`split_flags` returns them.

    Raises:
        UserError: a flag speaks of an entry of an empty list, or of arguments that are no mapping.
    """
    result = _copy(settings)
    for name, value in flags:
        _assign(result, name.removesuffix("+").split("."), value, append=name.endswith("+"))
    return result


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        empty = "class_path" in node and node.get("init_args", {}) is None  # all its arguments are commented out
        return {str(key): _copy(value) for key, value in node.items() if not (empty and key == "init_args")}
    return [_copy(value) for value in node] if isinstance(node, list) else node


def _assign(node: dict[str, Any], keys: list[str], value: str, append: bool) -> None:
    top = len(keys) == 1 and keys[0] in _SECTIONS
    for number, key in enumerate(keys[:-1], 1):
        node = _holder(node, key, keys)
        child = node[key] = _as_list(node.get(key))
        if isinstance(child, list):  # --list+=Class --list.argument=1 speaks of the last entry
            if not child:
                where = ".".join(keys[:number])
                raise UserError(
                    f"--{'.'.join(keys)} speaks of the last entry of a list that is empty.",
                    looked_for=f"an entry of {where!r}, to set {'.'.join(keys[number:])!r} of",
                    remedy=f"add one first: --{where}+ CLASS",
                )
            child[-1] = node = _as_section(child[-1])
        else:
            node[key] = node = _as_section(child)
    node = _holder(node, keys[-1], keys)
    below = node.get(keys[-1])
    read = _read(value, below, top, append)
    if append:
        below = _as_list(below)
        items = read if isinstance(read, list) else [read]
        node[keys[-1]] = [*(below if isinstance(below, list) else [] if below is None else [below]), *items]
    elif isinstance(read, Mapping):
        node.update(merge_layers({keys[-1]: below}, {keys[-1]: read}))
    elif not _is_same_class(below, read):
        node[keys[-1]] = read


def _holder(node: dict[str, Any], key: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the mapping that a key stands in: the arguments, where it is one of a class."""
    if "class_path" not in node or key in STRUCTURE:
        return node
    arguments = node.setdefault("init_args", {})
    if not isinstance(arguments, dict):
        raise UserError(
            f"--{'.'.join(keys)} cannot be set: the init_args of {node['class_path']} are {arguments!r}.",
            looked_for="a mapping of its arguments",
        )
    return arguments


def _as_list(node: Any) -> Any:
    """Return the list that an earlier flag gave as text; anything else as it is."""
    return _read(node, None, top=False, append=True) if isinstance(node, str) and node.startswith("[") else node


def _as_section(node: Any) -> dict[str, Any]:
    """Return a mapping to put arguments in; a class that an earlier flag named becomes one."""
    if isinstance(node, dict):
        return node
    return {"class_path": node} if isinstance(node, str) and isinstance(read_word(node), str) else {}


def _read(value: str, below: Any, top: bool, append: bool) -> Any:
    """Read a value that describes classes or a section; any other stays text."""
    if value.endswith((".yaml", ".yml")):
        held = _file(value)
        if held is not None and (top or not held.keys().isdisjoint(STRUCTURE)):
            return held
    if not value.startswith(("{", "[")):
        return value
    try:
        read: Any = OmegaConf.to_container(OmegaConf.create(value), resolve=False)
    except (YAMLError, OmegaConfBaseException):
        return value
    if isinstance(read, list):
        return read if append or any(isinstance(item, Mapping) for item in read) else value
    return read if isinstance(below, Mapping) or not read.keys().isdisjoint(STRUCTURE) else value


def _file(value: str) -> dict[str, Any] | None:
    try:
        return load_config(Path(value)) if Path(value).is_file() else None
    except (OSError, ValueError):  # UserError is one: text that happens to be the name of some other file
        return None


def _is_same_class(below: Any, named: Any) -> bool:
    if not isinstance(below, Mapping) or not isinstance(named, str):
        return False
    there = str(below.get("class_path"))
    if there == named:
        return True
    if there.rpartition(".")[2] != named.rpartition(".")[2]:
        return False
    return "." not in there or "." not in named or resolve(there, ()) is resolve(named, ())
