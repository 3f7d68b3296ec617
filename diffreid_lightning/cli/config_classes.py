"""Find the classes that a config may name, and read the arguments, defaults and types of their constructors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule

#: Modules whose classes are values, written as text, and not configured by name.
_PLAIN = ("builtins", "collections.abc", "typing", "types", "pathlib", "os", "datetime")
#: The sections that name a class, and its base.
SECTIONS: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}
#: Characters that YAML does not take as they are, or folds into blanks.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def write_word(settings: Any) -> str:
    """Write settings as a word that the parser reads as YAML: JSON, without the surrogate pairs that YAML refuses."""
    text = json.dumps(settings, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_word(word: str) -> Any:
    """Read a value of the command line as the parser does; what is no YAML is text."""
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):  # the latter for what looks like a date, such as 2024-31-12
        return word


def looks_like_a_class(value: Any) -> bool:
    """Tell a class's name from other text by its capital."""
    return isinstance(value, str) and value.isprintable() and value.rpartition(".")[2][:1].isupper()


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
    for constructor in constructors(owner):
        with contextlib.suppress(NameError, TypeError):  # a foreign class whose annotations cannot be evaluated here
            found = {**typing.get_type_hints(constructor), **found}
    return found


def argument_defaults(owner: type) -> dict[str, Any]:
    """Return the defaults of a class's constructor arguments; ``inspect.Parameter.empty`` for those without one."""
    found: dict[str, Any] = {}
    for constructor in constructors(owner):
        parameters = inspect.signature(constructor).parameters.values()
        found = {**{parameter.name: parameter.default for parameter in parameters}, **found}
    return found


def constructors(owner: type) -> Iterator[Callable[..., Any]]:
    """Yield the constructor of a class, and the inherited ones that it hands its ``**kwargs`` to."""
    defined = [vars(parent)["__init__"] for parent in inspect.getmro(owner)[:-1] if "__init__" in vars(parent)]
    if not defined:
        yield owner
    for constructor in defined:
        yield constructor
        if not hands_on(constructor):
            return


def hands_on(constructor: Callable[..., Any]) -> bool:
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


def count_passed(hint: Any) -> int:
    """Return how many arguments a value of this type is called with: 1 for ``Callable[[Iterable], Optimizer]``."""
    arguments = typing.get_args(hint)
    if arguments and isinstance(arguments[0], list):
        return len(arguments[0])
    return max((count_passed(inner) for inner in arguments), default=0)


def takes_text(hint: Any) -> bool:
    """Return true if a value of this type may be plain text."""
    return hint is str or any(takes_text(inner) for inner in typing.get_args(hint))


def subclasses(bases: Iterable[type]) -> Iterator[type]:
    """Yield the classes and those made from them, as far as they are imported."""
    for base in bases:
        yield base
        if base.__module__ != "builtins":
            yield from subclasses(base.__subclasses__())


def resolve(class_path: str, bases: tuple[type, ...]) -> type | None:
    """Return the class of a dotted path, or of that name among the known subclasses of ``bases``; None for no such."""
    module, _, name = class_path.rpartition(".")
    if module:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except (ImportError, TypeError, ValueError):  # no such module; a name that begins with dots
            return None
        return found if isinstance(found, type) else None
    return next((cls for cls in subclasses(bases) if cls.__name__ == class_path), None)
