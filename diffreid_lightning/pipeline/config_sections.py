"""Read sections of a YAML file that describes commands, and refuse what it does not have."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffreid_lightning.errors import UserError, did_you_mean


def mapping_at(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return a section that is a mapping; an empty one where it is missing or null.

    Raises:
        UserError: it is something else.
    """
    value = given.get(key) or {}
    if not isinstance(value, Mapping):
        raise UserError(f"{key!r} of {where} is no mapping.", looked_for=f"{key}: {{NAME: ...}}", found=repr(value))
    return value


def names_at(given: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a section that is a list of names; an empty one where it is missing or null.

    Raises:
        UserError: it is something else.
    """
    value = given.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key!r} of {where} is no list of names.", looked_for=f"{key}: [NAME, ...]", found=repr(value))
    return tuple(value)


def text_at(given: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return a value as text; None where it is missing or null.

    Raises:
        UserError: it is a list, a mapping, or true or false.
    """
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{key!r} of {where} is no text.", looked_for=f"{key}: TEXT, in one line", found=repr(value))
    return str(value)


def switch_at(given: Mapping[str, Any], key: str, where: str) -> bool:
    """Return a value that is true or false; false where it is missing or null.

    Raises:
        UserError: it is something else.
    """
    value = given.get(key) or False
    if not isinstance(value, bool):
        raise UserError(f"{key!r} of {where} is not true or false.", looked_for=f"{key}: true", found=repr(value))
    return value


def split_words(text: str, where: str) -> tuple[str, ...]:
    """Split a command into words as a shell does.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(
            f"The command of {where} cannot be read.", found=f"{text} ({error})", remedy="close its quotes"
        ) from error


def refuse_unknown_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse keys that a section does not have.

    Raises:
        UserError: there is one; the message names the nearest known key.
    """
    for key in given:
        if key not in known:
            raise UserError(
                f"Unknown key {key!r} in {where}.",
                found=f"known: {', '.join(known)}",
                remedy=did_you_mean(str(key), known),
            )
