"""Write JSON files of the package, and read them with a check of their structure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import not_a_file
from diffreid_lightning.storage.atomic import replace_file

_DEEPEST = 200  # levels; the note of a training nests those of earlier trainings


class DamagedFile(UserError):
    """A file of the package is damaged; catch this to create the file again."""


def damaged_error(file: Path, found: str, *, looked_for: str, remedy: str) -> DamagedFile:
    """Return the error for a damaged file.

    Args:
        file: the file.
        found: the fault.
        looked_for: the expected content.
        remedy: what to do.
    """
    return DamagedFile(
        f"A file is damaged or of another kind: {file}", looked_for=looked_for, found=found, remedy=remedy
    )


def write_json(file: Path, content: Any, *, sort_keys: bool = True, ensure_ascii: bool = True) -> None:
    """Write an indented JSON file; the options are those of :func:`json.dumps`."""
    text = json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    file.write_text(text + "\n", encoding="utf-8")


def replace_json(file: Path, content: Any, *, sort_keys: bool = True, durable: bool = False) -> None:
    """Write an indented JSON file atomically, as :func:`~.atomic.replace_file` does."""
    with replace_file(file, durable=durable) as staged:
        write_json(staged, content, sort_keys=sort_keys)


def read_json(file: Path, form: Any = dict, *, remedy: str) -> dict[str, Any]:
    """Read a JSON object and check its structure.

    Args:
        file: the file.
        form: its structure: a type (``int`` and ``float`` must be finite, and not bool); ``[form]`` for a list;
            ``{str: form}`` for an object with any keys; ``{"key": form}`` for one with at least these keys.
        remedy: what to do if it is damaged.

    Raises:
        DamagedFile: the file is missing, not JSON, nested too deeply, or of another structure.
    """
    looked_for = "a JSON object written by this package"
    found = not_a_file(file)
    if found is not None:
        raise damaged_error(file, found, looked_for=looked_for, remedy=remedy)
    try:
        note = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged_error(file, f"{type(error).__name__}: {error}", looked_for=looked_for, remedy=remedy) from error
    wrong = mismatch(note, dict) or mismatch(note, form)
    if wrong is not None:
        raise damaged_error(file, wrong, looked_for=looked_for, remedy=remedy)
    return dict(note)


def read_sound_json(file: Path, form: Any = dict) -> dict[str, Any] | None:
    """Read a JSON object as :func:`read_json` does; None if it is missing or damaged."""
    try:
        return read_json(file, form, remedy="")
    except DamagedFile:
        return None


def mappings_in(note: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping of nested values, at any depth, the outer ones first."""
    if isinstance(note, Mapping):
        yield note
        note = list(note.values())
    for value in note if isinstance(note, (list, tuple)) else ():
        yield from mappings_in(value)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON with at most 200 levels.

    Raises:
        ValueError: it is not JSON, or nested more deeply.
    """
    too_deep = f"nested deeper than {_DEEPEST} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level: list[Any] = [[value]]
    for _ in range(_DEEPEST + 1):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(too_deep)


def mismatch(value: Any, form: Any, where: str = "") -> str | None:
    """Describe where a value differs from a ``form`` of :func:`read_json`; None if it does not."""
    at = where or "the top"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{at} is not a list"
        found = (mismatch(each, form[0], f"{where}[{number}]") for number, each in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{at} is not an object"
        below = dict.fromkeys(value, form[str]) if str in form else form
        missing = [key for key in below if key not in value]
        if missing:
            return f"{at} has no {missing[0]!r}"
        found = (mismatch(value[key], inner, f"{where}.{key}".lstrip(".")) for key, inner in below.items())
        return next(filter(None, found), None)
    sound = isinstance(value, (int, float) if form is float else form)
    if form in (int, float):
        sound = sound and not isinstance(value, bool) and (isinstance(value, int) or math.isfinite(value))
    return None if sound else f"{at} is {str(value)[:40]!r}"
