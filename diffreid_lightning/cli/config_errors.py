"""Suggest the intended key or class for an unknown one in a config.

The parser's own message for a key it does not know in a nested class is a tree of union types. This file is asked only
after the parser has refused a configuration: it walks the settings that were given, file by file and flag by flag,
beside the constructors they are meant for, and reports the first name that none of them takes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from diffreid_lightning.config_files import STRUCTURE
from diffreid_lightning.errors import UserError, nearest, shorten

#: Modules whose classes are values, written as text, and not configured by name.
_PLAIN = ("builtins", "collections.abc", "typing", "types", "pathlib", "os", "datetime")
SECTIONS: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}


def explain(settings: Mapping[str, Any], top_level: Iterable[str]) -> UserError | None:
    """Find the first unknown setting in ``settings``.

    Args:
        settings: the merged configuration, flags applied (:func:`~.flags.with_flags`).
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


def missing(settings: Mapping[str, Any], path: str = "") -> str | None:
    """Return the first setting that a config leaves for the user to give (``???``), or None."""
    for key, value in settings.items():
        where = f"{path}.{key}".lstrip(".")
        found = where if value == "???" else missing(value, where) if isinstance(value, Mapping) else None
        if found is not None:
            return found.replace(".init_args", "")
    return None


def explain_sections(settings: Mapping[str, Any]) -> UserError | None:
    """Find a section (``trainer``, ``model``, ``data``) that is no mapping, or names no class."""
    for key in ("trainer", *SECTIONS):
        given = settings.get(key, {})
        text = key in SECTIONS and isinstance(given, str) and read_word(given) is not None
        if text or (isinstance(given, Mapping) and given.get("class_path", "") is not None):
            continue
        return UserError(
            f"{key!r} cannot be {'null' if given is None else repr(given)}.",
            looked_for="a mapping of settings" if key == "trainer" else "a class, or class_path with init_args",
            remedy=f"leave {key!r} out to keep what is below it",
        )
    return None


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
            guess = nearest(key, STRUCTURE)
            return UserError(
                f"{path + '.' + key!r} stands beside class_path, where no argument can stand.",
                looked_for=f"{', '.join(STRUCTURE)} in a section that names a class",
                remedy=f"did you mean {guess!r}?" if guess else f"indent it under init_args of {path!r}",
            )
    given = section.get("init_args") or {}
    if not isinstance(given, Mapping):
        return UserError(
            f"{path + '.init_args'!r} cannot be {given!r}.", looked_for=f"a mapping of {owner.__name__}'s arguments"
        )
    signature = inspect.signature(owner).parameters
    if not _hands_on([*_constructors(owner)][-1]):
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
    same = {cls for cls in _subclasses(bases) if cls.__name__ == named and "." not in named}
    if len(same) > 1:
        return UserError(
            f"{path!r} names two classes: {named!r}.",
            found=", ".join(sorted(f"{cls.__module__}.{cls.__name__}" for cls in same)),
            remedy="write one of them out",
        )
    if inspect.isabstract(found):
        others = {cls.__name__ for cls in _subclasses((found,)) if not inspect.isabstract(cls)}
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


def read_word(word: str) -> Any:
    """Read a value of the command line as the parser does; what is no YAML is text."""
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def looks_like_a_class(value: Any) -> bool:
    """Tell a class's name from other text by its capital."""
    return isinstance(value, str) and value.isprintable() and value.rpartition(".")[2][:1].isupper()


def explain_arguments(given: Mapping[str, Any], path: str, owner: type) -> UserError | None:
    """Find the first argument that a class does not have, or that cannot be what is given for it."""
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
        bases = tuple(classes_in(hint))
        error = _walk(value, f"{path}.{key}", bases, text=_takes_text(hint), passed=_passed(hint))
        if error is not None:
            return error
    return None


@functools.cache
def accepted_arguments(owner: type) -> list[str]:
    """Return the names ``owner`` can be configured with, those that travel through ``**kwargs`` among them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "x", fail_untyped=False)
    defaults = parser.get_defaults().as_dict()
    names = set(defaults.get("x") or {})
    return sorted(names | {name for name in inspect.signature(owner).parameters if name not in ("args", "kwargs")})


def type_hints(owner: type) -> dict[str, Any]:
    """Return the types of a class's constructor arguments, as far as they can be evaluated here."""
    found: dict[str, Any] = {}
    for constructor in _constructors(owner):
        with contextlib.suppress(NameError, TypeError):  # a foreign class whose annotations cannot be evaluated here
            found = {**typing.get_type_hints(constructor), **found}
    return found


def argument_defaults(owner: type) -> dict[str, Any]:
    """Return the defaults of a class's constructor arguments; ``inspect.Parameter.empty`` for those without one."""
    found: dict[str, Any] = {}
    for constructor in _constructors(owner):
        parameters = inspect.signature(constructor).parameters.values()
        found = {**{parameter.name: parameter.default for parameter in parameters}, **found}
    return found


def _constructors(owner: type) -> Iterator[Callable[..., Any]]:
    """Yield the constructor of a class, and the inherited ones that it hands its ``**kwargs`` to."""
    defined = [vars(parent)["__init__"] for parent in inspect.getmro(owner)[:-1] if "__init__" in vars(parent)]
    if not defined:
        yield owner
    for constructor in defined:
        yield constructor
        if not _hands_on(constructor):
            return


def _hands_on(constructor: Callable[..., Any]) -> bool:
    """Return true if a constructor has ``**kwargs``."""
    parameters = inspect.signature(constructor).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes a value of this type may be configured as: those named, or returned by a named callable."""
    origin = typing.get_origin(hint)
    found = origin if isinstance(origin, type) else hint
    if isinstance(found, type) and found.__module__ not in _PLAIN:
        yield found
    for inner in typing.get_args(hint):
        if not isinstance(inner, (list, tuple)):  # not the parameters inside Callable[[...], ...]
            yield from classes_in(inner)


def _passed(hint: Any) -> int:
    """Return how many arguments a value of this type is called with: 1 for ``Callable[[Iterable], Optimizer]``."""
    arguments = typing.get_args(hint)
    if arguments and isinstance(arguments[0], list):
        return len(arguments[0])
    return max((_passed(inner) for inner in arguments), default=0)


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
        except (ImportError, TypeError, ValueError):  # no such module; a name that begins with dots
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
    guess = nearest(class_path.rpartition(".")[2], [*names, *(cls.__name__ for cls in known)], cutoff)
    return UserError(
        f"{path!r} names a class that does not exist: {class_path!r}.",
        looked_for="a short name of a class that comes with the package, or an importable path (package.module.Class)",
        found=f"known here: {shorten(names, 20)}" if names else None,
        remedy=f"did you mean {guess!r}?" if guess else "check that its module is installed and importable",
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
