"""What was meant by a key or a class name that nobody knows: the answer to a misspelt config.

The parser's own message for a key it does not know in a nested class is a tree of union types. This file is asked only
after the parser has refused a configuration: it walks the settings that were given, file by file and flag by flag,
beside the constructors they are meant for, and reports the first name that none of them takes.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from diffreid_lightning.cli.layers import STRUCTURE
from diffreid_lightning.data.datasets import PersonDataset
from diffreid_lightning.errors import UserError, nearest, shorten

#: Modules whose classes are values, written as text, and not configured by name.
_PLAIN = ("builtins", "collections.abc", "typing", "types", "pathlib", "os", "datetime")
SECTIONS: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}


def explain(settings: Mapping[str, Any], top_level: Iterable[str]) -> UserError | None:
    """Find the first setting in ``settings`` that has no taker.

    Args:
        settings: the merged configuration, overrides applied (:func:`with_overrides`).
        top_level: the keys the subcommand itself accepts (``trainer``, ``model``, ``ckpt_path``, ...).

    Returns:
        An error that names the setting and the nearest right name, or None when every name is known.
    """
    names = sorted({key.split(".")[0] for key in top_level})
    for key, value in settings.items():
        if key not in names:
            below = next(iter(value), None) if isinstance(value, Mapping) else None
            meant = _section_with(key, settings)
            guess = f"{meant}.{below}" if meant and below else meant
            return _unknown(key, key, "this command", names, guess)
        if key in SECTIONS and value is not None:
            error = _walk(value, key, (SECTIONS[key],))
        elif key == "trainer" and isinstance(value, Mapping):
            error = _walk_arguments(value, key, Trainer)
        else:
            error = None
        if error is not None:
            return error
    return None


def explain_class(settings: Mapping[str, Any], command: str, owner: type) -> UserError | None:
    """Find the first setting without a taker where one class takes them all, as ``select`` does.

    Args:
        settings: the merged configuration, overrides applied (:func:`with_overrides`).
        command: what the settings belong to, for the message.
        owner: the class.
    """
    return _walk_arguments(settings, command, owner)


def missing(settings: Mapping[str, Any], path: str = "") -> str | None:
    """Return the first setting that a config leaves for the user to give (``???``), or None."""
    for key, value in settings.items():
        where = f"{path}.{key}".lstrip(".")
        found = where if value == "???" else missing(value, where) if isinstance(value, Mapping) else None
        if found is not None:
            return found.replace(".init_args", "")
    return None


def with_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``--a.b=c`` flags to a nested configuration, well enough to walk it (values stay strings)."""
    result = _copy(settings)
    words = list(overrides)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            continue
        flag, equals, given = word[2:].partition("=")
        value: str | None = given
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else None
        _assign(result, flag.removesuffix("+").split("."), value, append=flag.endswith("+"))
    return result


def explain_words(words: Sequence[str]) -> UserError | None:
    """Find the first word of the command line that is no ``--setting value``: a flag without a value, or a stray word.

    Args:
        words: the command line, without its ``--config``.
    """
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            return UserError(f"{word!r} is not an option.", remedy="write settings as --section.name VALUE")
        if "=" in word or word in ("-h", "--help", "--print_config") or word.endswith(".help"):
            continue
        if not queue or queue[0].startswith("--"):
            return UserError(f"{word} has no value after it.", remedy=f"write {word} VALUE")
        queue.pop(0)
    return None


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _copy(value) for key, value in node.items()}
    return [_copy(value) for value in node] if isinstance(node, list) else node


def _assign(node: dict[str, Any], keys: list[str], value: str | None, append: bool) -> None:
    for key in keys[:-1]:
        if "class_path" in node and key not in STRUCTURE:
            node = node.setdefault("init_args", {})
        child = node.get(key)
        if isinstance(child, str):  # a class named by an earlier flag, its arguments by this one
            child = {"class_path": child}
        elif isinstance(child, list):  # --list+=Class --list.argument=1 speaks of the last entry
            if child and isinstance(child[-1], str):
                child[-1] = {"class_path": child[-1]}
            child = child[-1] if child and isinstance(child[-1], dict) else {}
        elif not isinstance(child, dict):
            child = {}
        if not isinstance(node.get(key), list):
            node[key] = child
        node = child
    if "class_path" in node and keys[-1] not in STRUCTURE:
        node = node.setdefault("init_args", {})
    below = node.get(keys[-1])
    if append:
        node[keys[-1]] = [*(below if isinstance(below, list) else [] if below is None else [below]), value]
    elif isinstance(below, dict) and "class_path" in below and value is not None and read_word(value) is not None:
        node[keys[-1]] = {"class_path": value}  # the parser drops the former class's arguments too
    else:
        node[keys[-1]] = value


def _walk(node: Any, path: str, bases: tuple[type, ...], text: bool = False) -> UserError | None:
    """Check one value that is meant for a parameter whose type mentions ``bases``, and plain text if ``text``."""
    if isinstance(node, str) and node.startswith(("[", "{")):
        node = read_word(node)
    if isinstance(node, list):
        return next(filter(None, (_walk(item, f"{path}[{i}]", bases, text) for i, item in enumerate(node))), None)
    if isinstance(node, Mapping) and "class_path" in node:
        found = resolve(str(node["class_path"]), bases)
        if found is None and not bases:
            return None  # nothing is known of what belongs here
        if found is None:
            return _unknown_class(str(node["class_path"]), path, bases)
        return _walk_arguments(node.get("init_args") or {}, path, found)
    names_a_class = path in SECTIONS or (bases and not text and (path.endswith("]") or looks_like_a_class(node)))
    if isinstance(node, str) and names_a_class and resolve(node, bases) is None:
        return _unknown_class(node, path, bases)
    return None


def read_word(word: str) -> Any:
    """Read a value of the command line as the parser does; what is no YAML is text."""
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def looks_like_a_class(value: Any) -> bool:
    """Tell a class's name from other text by its capital."""
    return isinstance(value, str) and value.isprintable() and value.rpartition(".")[2][:1].isupper()


def _walk_arguments(given: Mapping[str, Any], path: str, owner: type) -> UserError | None:
    if not isinstance(given, Mapping):
        return UserError(
            f"The arguments of {path!r} are no mapping.",
            looked_for="NAME: VALUE below init_args",
            found=str(given)[:80],
        )
    accepted = accepted_arguments(owner)
    hints = type_hints(owner)
    for key, value in given.items():
        if key not in accepted:
            return _unknown(f"{path}.{key}", key, owner.__name__, accepted)
        hint = hints.get(key)
        error = _walk(value, f"{path}.{key}", tuple(classes_in(hint)), text=_takes_text(hint))
        if error is not None:
            return error
    return None


def accepted_arguments(owner: type) -> list[str]:
    """Return the names ``owner`` can be configured with, those that travel through ``**kwargs`` among them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "x", fail_untyped=False)
    defaults = parser.get_defaults().as_dict()
    names = set(defaults.get("x") or {})
    return sorted(names | {name for name in inspect.signature(owner).parameters if name not in ("args", "kwargs")})


def type_hints(owner: type) -> dict[str, Any]:
    """Return the types of a class's own constructor arguments, as far as they can be evaluated here."""
    try:
        return typing.get_type_hints(vars(owner).get("__init__", owner))
    except (NameError, TypeError):  # a foreign class whose annotations cannot be evaluated here
        return {}


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes a value of this type may be configured as: those named, or returned by a named callable."""
    origin = typing.get_origin(hint)
    found = origin if isinstance(origin, type) else hint
    if isinstance(found, type) and found.__module__ not in _PLAIN:
        yield found
    for inner in typing.get_args(hint):
        if not isinstance(inner, (list, tuple)):  # not the parameters inside Callable[[...], ...]
            yield from classes_in(inner)


def _takes_text(hint: Any) -> bool:
    return hint is str or any(_takes_text(inner) for inner in typing.get_args(hint))


def _subclasses(bases: Iterable[type]) -> Iterator[type]:
    for base in bases:
        yield base
        if base.__module__ != "builtins":
            yield from _subclasses(base.__subclasses__())


def resolve(class_path: str, bases: tuple[type, ...]) -> type | None:
    """Return the class of a dotted path, or of that name among the known subclasses of ``bases``; None for no such."""
    module, _, name = class_path.rpartition(".")
    if module:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            return None
        return found if isinstance(found, type) else None
    return next((cls for cls in _subclasses(bases) if cls.__name__ == class_path), None)


def _section_with(key: str, settings: Mapping[str, Any]) -> str | None:
    """Return the setting ``key`` below the section whose class has it: people leave the section out."""
    for section, base in (("trainer", Trainer), *SECTIONS.items()):
        given = settings.get(section)
        named = given.get("class_path") if isinstance(given, Mapping) else given
        owner = resolve(str(named), (base,)) if section in SECTIONS else base
        if owner is not None and key in accepted_arguments(owner):
            return f"{section}.{key}"
    return None


def _unknown(path: str, key: str, owner: str, accepted: Iterable[str], guess: str | None = None) -> UserError:
    accepted = sorted(accepted)
    guess = guess or nearest(key, accepted)
    return UserError(
        f"{path!r} is not a setting: {owner} has no {key!r}.",
        found=f"its settings are {shorten(accepted, 40)}",
        remedy=f"did you mean {guess!r}?" if guess else "take one of the settings above",
    )


def _unknown_class(class_path: str, path: str, bases: tuple[type, ...]) -> UserError:
    known = [cls for cls in _subclasses(bases) if not cls.__name__.startswith("_")]
    names = sorted({cls.__name__ for cls in known if cls.__module__.startswith("diffreid_lightning")}) or sorted(
        {cls.__name__ for cls in known}
    )
    if "/" in class_path and PersonDataset in bases:
        return UserError(
            f"{path!r} is a path and has arguments of its own.",
            found=class_path,
            remedy=f"name the format, and give the path as its root: --{path} Market1501 --{path}.root {class_path}",
        )
    if "/" in class_path and path == "data":
        return UserError(
            "'data' names a path, and no class that gives out data.",
            found=class_path,
            remedy=f"did you mean --data.train {class_path}?",
        )
    guess = nearest(class_path.rpartition(".")[2], [*names, *(cls.__name__ for cls in known)])
    return UserError(
        f"{path!r} names a class that does not exist: {class_path!r}.",
        looked_for="a short name of a class that comes with the package, or an importable path (package.module.Class)",
        found=f"known here: {shorten(names, 20)}" if names else None,
        remedy=f"did you mean {guess!r}?" if guess else "check that its module is installed and importable",
    )


def refused(command: str, error: Exception) -> UserError:
    """Word a refusal of the parser that nothing better is known of."""
    return UserError(
        "The configuration was refused.",
        found=readable(str(error)),
        remedy=f"what it takes: python -m diffreid_lightning {command} --help",
    )


def readable(message: str) -> str:
    """Boil the parser's nested message down to the setting it is about and the reasons, without type unions."""
    noise = (
        "Given value: Namespace",
        "Given value: NestedArg",
        "Given value: [",
        "Does not validate against",
        "Subtypes:",
        "Errors:",
        "Given value type:",
        "Expected a <class 'NoneType'>",
    )
    kept = [line.strip().lstrip("- ") for line in message.splitlines()]
    kept = [line for line in kept if line and not line.startswith(noise)]
    text = "; ".join(dict.fromkeys(kept))
    return re.sub(r'Parser key "([^"]+)":;?', r"--\1:", re.sub(r"<class '(\w+)'>", r"\1", text))
