"""Suggest the intended key or class for an unknown one in a config.

The parser's own message for a key it does not know in a nested class is a tree of union types. :func:`explain`
is called after the parser has refused a configuration, or a class its arguments: it walks the settings that were given
beside the constructors they are meant for, and reports the first name that none of them takes. Sections are checked
before the parser sees them (:func:`refuse_missing`, :func:`refuse_sections`).
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer

from diffreid_lightning.cli.config_classes import (
    SECTIONS,
    accepted_arguments,
    classes_in,
    constructors,
    count_passed,
    hands_on,
    looks_like_a_class,
    read_word,
    resolve,
    subclasses,
    takes_text,
    type_hints,
)
from diffreid_lightning.config_files import STRUCTURE, leaves
from diffreid_lightning.errors import UserError, did_you_mean, nearest, shorten


def explain(settings: Mapping[str, Any], top_level: Iterable[str]) -> UserError | None:
    """Find the first unknown setting in ``settings``.

    Args:
        settings: the merged configuration, flags applied (:func:`~.command_line_flags.with_flags`).
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
        if key in SECTIONS:
            error = _walk(value, key, (SECTIONS[key],))
        elif key == "trainer" and isinstance(value, Mapping):
            error = explain_arguments(value, key, Trainer)
        else:
            error = None
        if error is not None:
            return error
    return None


def refuse_missing(settings: Mapping[str, Any]) -> None:
    """Refuse a config that leaves a setting for the user to give (``???``).

    Raises:
        UserError: it leaves one.
    """
    found = (key for key, value in leaves(settings) if value == "???" or (isinstance(value, list) and "???" in value))
    for key in found:
        flag = re.sub(r"\.(init_args|\d+)\b", "", key)
        raise UserError(
            f"The config leaves {flag} open ('???').",
            looked_for=f"--{flag} on the command line, or a later --config that gives it",
            remedy=f"add --{flag} VALUE",
        )


def refuse_sections(settings: Mapping[str, Any]) -> None:
    """Refuse a section (``trainer``, ``model``, ``data``) that is no mapping, or names no class.

    Raises:
        UserError: there is one.
    """
    for key in ("trainer", *SECTIONS):
        given = settings.get(key, {})
        text = key in SECTIONS and isinstance(given, str) and read_word(given) is not None
        if text or (isinstance(given, Mapping) and given.get("class_path", "") is not None):
            continue
        raise UserError(
            f"{key!r} cannot be {'null' if given is None else repr(given)}.",
            looked_for="a mapping of settings" if key == "trainer" else "a class, or class_path with init_args",
            remedy=f"leave {key!r} out to keep what is below it",
        )


def _walk(node: Any, path: str, bases: tuple[type, ...], text: bool = False, passed: int = 0) -> UserError | None:
    """Check one value that is meant for a parameter.

    Args:
        node: the value.
        path: the parameter's.
        bases: the classes that its type mentions.
        text: it takes plain text too.
        passed: how many arguments the class is given by whoever builds it, as an optimizer its parameters.
    """
    if isinstance(node, str) and node.startswith(("[", "{")):
        node = read_word(node)
    if isinstance(node, list):
        items = (_walk(item, f"{path}[{i}]", bases, text, passed) for i, item in enumerate(node))
        return next(filter(None, items), None)
    named = node.get("class_path") if isinstance(node, Mapping) and "class_path" in node else node
    if isinstance(node, str):
        if not (path in SECTIONS or (bases and not text and (path.endswith("]") or looks_like_a_class(node)))):
            return None
    elif named is node or not bases:
        return None  # no class, or nothing is known of what belongs here
    found = resolve(str(named), bases)
    if found is None:
        return _without_arguments(node, path, text) or _unknown_class(str(named), path, bases)
    return _wrong_class(found, str(named), path, bases) or _walk_section(node, path, found, passed)


def _walk_section(node: Any, path: str, owner: type, passed: int) -> UserError | None:
    """Check the arguments of a class, and that none is missing."""
    section = node if isinstance(node, Mapping) else {}
    for key in section:
        if key not in STRUCTURE:
            return UserError(
                f"{path + '.' + key!r} stands beside class_path, where no argument can stand.",
                looked_for=f"{', '.join(STRUCTURE)} in a section that names a class",
                remedy=did_you_mean(key, STRUCTURE, f"indent it under init_args of {path!r}"),
            )
    given = section.get("init_args") or {}
    if not isinstance(given, Mapping):
        return UserError(
            f"{path + '.init_args'!r} cannot be {given!r}.", looked_for=f"a mapping of {owner.__name__}'s arguments"
        )
    signature = inspect.signature(owner).parameters
    if not hands_on([*constructors(owner)][-1]):
        given = {**given, **(section.get("dict_kwargs") or {})}
    error = explain_arguments(given, path, owner)
    if error is not None:
        return error
    required = [name for name, parameter in signature.items() if parameter.default is inspect.Parameter.empty]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [name for name in required[passed:] if signature[name].kind in kinds and name not in given]
    if not missing:
        return None
    flag = re.sub(r"\[\d+\]", "", path)
    return UserError(
        f"{path!r} names {owner.__name__}, which needs {' and '.join(missing)}.",
        remedy=f"add {' '.join(f'--{flag}.{name} VALUE' for name in missing)}, or {missing[0]} under its init_args",
    )


def _wrong_class(found: type, named: str, path: str, bases: tuple[type, ...]) -> UserError | None:
    """Refuse a class of another kind, an abstract one, and a name that two classes have."""
    if not bases or any(getattr(base, "_is_protocol", False) for base in bases):
        return None
    kinds = shorten(dict.fromkeys(base.__name__ for base in bases))
    if not issubclass(found, bases):
        return UserError(
            f"{path!r} cannot be the class {found.__name__}.", looked_for=f"a class of {kinds}", found=named
        )
    same = {cls for cls in subclasses(bases) if cls.__name__ == named and "." not in named}
    if len(same) > 1:
        return UserError(
            f"{path!r} names two classes: {named!r}.",
            found=", ".join(sorted(f"{cls.__module__}.{cls.__name__}" for cls in same)),
            remedy="write one of them out",
        )
    if inspect.isabstract(found):
        others = {cls.__name__ for cls in subclasses((found,)) if not inspect.isabstract(cls)}
        return UserError(
            f"{path!r} cannot be {found.__name__} itself, which is abstract.",
            looked_for=f"one of {shorten(sorted(others), 20)}" if others else f"a class made from {found.__name__}",
        )
    return None


def _without_arguments(node: Any, path: str, text: bool) -> UserError | None:
    """Refuse arguments of what is plain text, such as the path of a dataset."""
    if not isinstance(node, Mapping) or not text or looks_like_a_class(str(node["class_path"])):
        return None
    given = str(node["class_path"])
    root = given if "/" in given else "PATH"
    return UserError(
        f"{path!r} is a plain {given!r} and has no arguments of its own.",
        found=", ".join(map(str, node.get("init_args") or {})),
        remedy=f"name a class, such as the format of a dataset: --{path} Market1501 --{path}.root {root}",
    )


def explain_arguments(given: Mapping[str, Any], path: str, owner: type) -> UserError | None:
    """Find the first argument that a class does not have, or that cannot be what is given for it.

    Args:
        given: the arguments.
        path: the setting that they stand under; "" where the command takes them itself.
        owner: the class.
    """
    accepted = accepted_arguments(owner)
    hints = type_hints(owner)
    for key, value in given.items():
        where = f"{path}.{key}".lstrip(".")
        if key not in accepted:
            return _unknown(where, key, owner.__name__, accepted)
        hint = hints.get(key)
        error = _walk(value, where, tuple(classes_in(hint)), text=takes_text(hint), passed=count_passed(hint))
        if error is not None:
            return error
    return None


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
    known = [cls for cls in subclasses(bases) if not cls.__name__.startswith("_")]
    roots = {base.__module__.partition(".")[0] for base in bases}
    own = {cls.__name__ for cls in known if cls.__module__.startswith("diffreid_lightning")}
    others = {cls.__name__ for cls in known if cls.__module__.partition(".")[0] in roots and cls not in bases}
    names = [*sorted(own), *sorted(others - own)]
    if "/" in class_path and path == "data":
        return UserError(
            "'data' names a path, and no class that gives out data.",
            found=class_path,
            remedy=f"did you mean --data.train {class_path}?",
        )
    lacking = _missing_package(class_path)
    if lacking is not None:
        return UserError(
            f"{path!r} names a class whose module cannot be imported: {class_path!r}.",
            found=str(lacking),
            remedy=f"pip install {lacking.name.partition('.')[0]}" if lacking.name else "mend what is named above",
        )
    cutoff = 0.7 if "." in class_path else 0.5
    name, candidates = class_path.rpartition(".")[2], [*names, *(cls.__name__ for cls in known)]
    return UserError(
        f"{path!r} names a class that does not exist: {class_path!r}.",
        looked_for="a short name of a class that comes with the package, or an importable path (package.module.Class)",
        found=f"known here: {shorten(names, 20)}" if names else None,
        remedy=did_you_mean(name, candidates, "check that its module is installed and importable", cutoff),
    )


def _missing_package(class_path: str) -> ImportError | None:
    """Return why the module of a class cannot be imported, where the module itself is there."""
    module = class_path.rpartition(".")[0]
    try:
        if module:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return None if error.name is None or f"{module}.".startswith(f"{error.name}.") else error
    except ImportError as error:
        return error
    except (TypeError, ValueError):  # a name that begins with dots
        return None
    return None


def refused(command: str, error: Exception) -> UserError:
    """Shorten a parser error for which no better message is known."""
    return UserError(
        "The configuration was refused.",
        found=readable(str(error)),
        remedy=f"what it takes: python -m diffreid_lightning {command} --help",
    )


def readable(message: str) -> str:
    """Boil the parser's nested message down to the setting it is about and the reasons, without types and values."""
    noise = (
        "Given value",
        "Does not validate against",
        "Subtypes:",
        "Errors:",
        "Expected a <class 'NoneType'>",
        "Subclass types expect",
        "a class path (str)",
        "a dict with",
        "Expected a path but",
    )
    kept = [line.strip().lstrip("- ") for line in message.splitlines()]
    kept = [re.sub(r"^Type .* expects a function or a callable class: |[.]? Got value: .*$", "", line) for line in kept]
    kept = [line for line in kept if line and not line.startswith(noise)]
    text = "; ".join(dict.fromkeys(kept))
    return re.sub(r'Parser key "([^"]+)":;?', r"--\1:", re.sub(r"<class '(\w+)'>", r"\1", text))
