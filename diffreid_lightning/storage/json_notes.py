"""Notes that the package keeps as JSON beside what it makes, read with a check of their form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import not_a_file

_DEEPEST = 200  # levels; a note of a training holds the notes of those before it


class DamagedFile(UserError):
    """A file that the package wrote is not what it was; who can make it again, catches this."""


def damaged(file: Path, found: str, *, looked_for: str, remedy: str) -> DamagedFile:
    """Word the refusal of a damaged file.

    Args:
        file: the file.
        found: what is wrong with it.
        looked_for: what should be there.
        remedy: what to do.
    """
    return DamagedFile(
        f"A file is damaged, or belongs to something else: {file}", looked_for=looked_for, found=found, remedy=remedy
    )


def read_json(file: Path, form: Any = dict, *, remedy: str) -> dict[str, Any]:
    """Read a JSON object and check its form.

    Args:
        file: the file.
        form: what it must hold: a type (``int`` and ``float`` are finite, and no truth values); ``[form]`` for a list;
            ``{str: form}`` for an object with any keys; ``{"key": form}`` for one with these keys and perhaps others.
        remedy: what to do where it is damaged.

    Raises:
        DamagedFile: it is not there, not JSON, nested without end, or of another form.
    """
    looked_for = "a JSON object as this package writes it"
    found = not_a_file(file)
    if found is not None:
        raise damaged(file, found, looked_for=looked_for, remedy=remedy)
    try:
        note = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}", looked_for=looked_for, remedy=remedy) from error
    wrong = mismatch(note, dict) or mismatch(note, form)
    if wrong is not None:
        raise damaged(file, wrong, looked_for=looked_for, remedy=remedy)
    return dict(note)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that is nested no deeper than 200 levels.

    Raises:
        ValueError: it is no JSON, or nested deeper.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {_DEEPEST} levels") from error
    if is_deep(value):
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    return value


def is_deep(value: Any) -> bool:
    """Tell whether a value of lists and mappings is nested too deeply for functions that call themselves."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (Mapping, list))
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, (Mapping, list))
        ]
        if not level:
            return False
    return True


def mismatch(value: Any, form: Any, where: str = "") -> str | None:
    """Say where a value departs from a form, as :func:`read_json` describes it; None where it has it."""
    at = where or "the top"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{at} is no list"
        found = (mismatch(each, form[0], f"{where}[{number}]") for number, each in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{at} is no object"
        below = dict.fromkeys(value, form[str]) if str in form else form
        missing = [key for key in below if key not in value]
        if missing:
            return f"{at} has no {missing[0]!r}"
        found = (mismatch(value[key], inner, f"{where}.{key}".lstrip(".")) for key, inner in below.items())
        return next(filter(None, found), None)
    sound = isinstance(value, (int, float) if form is float else form)
    if form in (int, float):
        sound = sound and not isinstance(value, bool) and math.isfinite(value)
    return None if sound else f"{at} is {str(value)[:40]!r}"
