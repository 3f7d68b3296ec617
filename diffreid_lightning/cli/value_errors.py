"""Explain which values a setting takes, after one of the wrong type.

Like :mod:`~diffreid_lightning.cli.config_errors`, which has first looked at the names, :func:`explain` is called after
the parser has refused a configuration; :func:`explain_nulls` before. They know plain values (numbers, words, choices,
lists of them); where a class may be meant they hold any class for possible.
"""

from __future__ import annotations

import collections.abc
import functools
import operator
import types
import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, Union

from lightning.pytorch import Trainer

from diffreid_lightning.cli import config_classes
from diffreid_lightning.errors import UserError, nearest

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
#: What other programs call a choice of Lightning's, which is spelled like another one.
_OTHER_NAMES = {
    **dict.fromkeys(("fp16", "float16", "half", "amp"), "16-mixed"),
    **dict.fromkeys(("bfloat16", "bf16-amp"), "bf16-mixed"),
    **dict.fromkeys(("fp32", "float32", "float", "full"), "32"),
    **dict.fromkeys(("fp64", "float64", "double"), "64"),
}
_LISTS = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)


def explain(settings: Mapping[str, Any], top_level: Mapping[str, Any]) -> UserError | None:
    """Find the first plain value in ``settings`` that its parameter does not take.

    Args:
        settings: the merged configuration, flags applied (:func:`~.command_line_flags.with_flags`).
        top_level: the settings that belong to no class, with their types.

    Returns:
        An error that names the setting, what it takes and the nearest choice; None when no value is known to be wrong.
    """
    for key, value in settings.items():
        if key == "trainer" and isinstance(value, Mapping):
            error = _of_arguments(value, key, Trainer)
        else:
            error = _of_value(value, key, config_classes.SECTIONS.get(key, top_level.get(key, Any)))
        if error is not None:
            return error
    return None


def explain_nulls(settings: Mapping[str, Any], top_level: Mapping[str, Any]) -> UserError | None:
    """Find the first null that its parameter does not take; the parser takes it for a setting that was left out.

    Args:
        settings: the merged configuration, flags applied.
        top_level: the settings that belong to no class, with their types.
    """
    return explain(_with_nulls(settings) or {}, top_level)


def _with_nulls(node: Any) -> Any:
    """Return what leads to a null, with the classes on the way, or None for nothing."""
    if isinstance(node, list):
        return node if None in node else [item for item in map(_with_nulls, node) if item] or None
    if not isinstance(node, Mapping):
        return None
    kept = {key: value if value is None else _with_nulls(value) for key, value in node.items()}
    kept = {key: value for key, value in kept.items() if value is not None or node[key] is None}
    return {**{key: node[key] for key in ("class_path",) if key in node}, **kept} if kept else None


def _of_arguments(given: Mapping[str, Any], path: str, owner: type) -> UserError | None:
    kinds = config_classes.type_hints(owner)
    defaults = config_classes.argument_defaults(owner)
    given = {key: value for key, value in given.items() if value is not None or defaults.get(key, 0) is not None}
    found = (_of_value(value, f"{path}.{key}", kinds.get(key, Any)) for key, value in given.items())
    return next(filter(None, found), None)


def _of_value(value: Any, path: str, kind: Any) -> UserError | None:
    if isinstance(value, Mapping) and "class_path" in value:
        if not _takes_class(kind):
            return _wrong(value, path, kind)
        owner = config_classes.resolve(str(value["class_path"]), tuple(config_classes.classes_in(kind)))
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            return _wrong(arguments, f"{path}.init_args", dict)
        return None if owner is None else _of_arguments(arguments, path, owner)
    if isinstance(value, list):
        for item in value:
            error = _of_value(item, path, _items_of(kind)) if isinstance(item, Mapping) else None
            if error is not None:
                return error
    return None if _takes(kind, value) else _wrong(value, path, kind)


def _takes(kind: Any, value: Any) -> bool:
    """Tell whether a parameter of this type may take the value; anything unknown may."""
    if isinstance(value, str) and "${" in value:
        return True
    members = _members(kind)
    if len(members) > 1:
        return any(_takes(member, value) for member in members)
    if kind is Any:
        return True
    if kind is str:
        return value is not None and not isinstance(value, (Mapping, list))
    if typing.get_origin(kind) is Literal:
        return str(value) in map(str, typing.get_args(kind))
    read = config_classes.read_word(value) if isinstance(value, str) else value
    if kind in (bool, int, float, type(None)):
        return _is_a(kind, read)
    origin = typing.get_origin(kind) or kind
    if origin in _LISTS:
        return _takes_items(origin, typing.get_args(kind), read)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(read, Mapping)
    if isinstance(value, str) and isinstance(origin, type) and not issubclass(origin, PurePath):
        return config_classes.looks_like_a_class(value)
    return not isinstance(read, (bool, int, float, list)) and read is not None


def _items_of(kind: Any) -> Any:
    """Return the type of the entries of a list, where the type says one."""
    lists = [member for member in _members(kind) if typing.get_origin(member) in _LISTS]
    kinds = tuple(inner for member in lists for inner in typing.get_args(member) if inner is not Ellipsis)
    return functools.reduce(operator.or_, kinds) if kinds else Any


def _takes_class(kind: Any) -> bool:
    """Tell whether one class may be meant, and not only a list of them or plain values."""
    return any((typing.get_origin(member) or member) not in (*_LISTS, *_WORDS, Literal) for member in _members(kind))


def _takes_items(origin: Any, kinds: tuple[Any, ...], read: Any) -> bool:
    if not isinstance(read, (list, tuple)):
        return False
    if origin is tuple and kinds and kinds[-1] is not Ellipsis:
        return len(read) == len(kinds) and all(map(_takes, kinds, read))
    return all(_takes(kinds[0], item) for item in read) if kinds else True


def _is_a(kind: type, read: Any) -> bool:
    if kind is float and not isinstance(read, bool):
        try:
            float(read)  # YAML reads 1e-3 as text
        except (TypeError, ValueError):
            return False
        return True
    return isinstance(read, kind) and (kind is bool or not isinstance(read, bool))


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return tuple(inner for member in typing.get_args(kind) for inner in _members(member))
    return (kind,)


def _wrong(value: Any, path: str, kind: Any) -> UserError:
    choices = [str(choice) for member in _members(kind) for choice in _choices(member)]
    other = _OTHER_NAMES.get(str(value).lower())
    guess = other if other in choices else nearest(str(value), choices)
    example = _example(kind)
    remedy = f"did you mean --{path} {guess}?" if guess else f"for instance --{path} {example}" if example else None
    if isinstance(value, Mapping) and value.get("init_args") and _is_plain_kind(kind):
        inner = next(iter(value["init_args"]))
        return UserError(f"'{path}.{inner}' is not a setting: {path} has none below it.", looked_for=_worded(kind))
    return UserError(
        f"--{path} cannot be {'null' if value is None else repr(value)}.", looked_for=_worded(kind), remedy=remedy
    )


def _is_plain_kind(kind: Any) -> bool:
    return all(member in _WORDS or typing.get_origin(member) is Literal for member in _members(kind))


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _worded(kind: Any) -> str:
    """Describe the values of a type."""
    members = _members(kind)
    choices = dict.fromkeys(str(choice) for member in members for choice in _choices(member))
    words = [f"one of {', '.join(choices)}"] if choices else []
    plain = [member for member in members if not _choices(member) and not (member is int and float in members)]
    words += [_worded_one(member) for member in plain]
    return " or ".join(dict.fromkeys(words))


def _worded_one(kind: Any) -> str:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return f"{len(inner)} values in brackets ({', '.join(map(_worded, inner))})"
    if origin in _LISTS:
        return f"a list of {_worded(inner[0])}" if inner else "a list"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    made = [cls.__name__ for cls in config_classes.classes_in(kind)]
    if made and origin is collections.abc.Callable:
        return f"the name of a class of {' or '.join(made)}, or class_path with init_args"
    return f"a {getattr(origin, '__name__', origin)}"


def _example(kind: Any) -> str | None:
    """Return an example of a tuple; other types need none."""
    for member in _members(kind):
        inner = typing.get_args(member)
        if typing.get_origin(member) is tuple and set(inner) <= {int, float}:
            return "[" + ",".join(["256", "128"] if len(inner) == 2 else ["1"] * len(inner)) + "]"
    return None
