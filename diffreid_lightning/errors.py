"""Errors in the house's one form: what happened, what was looked for, what was found, what to do.

``UserError`` is for what the person at the keyboard can mend (a path, a key, a file): the command line prints it
without a traceback and exits with 2. ``RunError`` is for what went wrong underneath (a full disk, a loss that is no
longer finite): printed the same way, exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LABELS = (("looked_for", "looked for"), ("found", "found"), ("remedy", "do this"))


class DiffReIDError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: one sentence that says what happened.
        looked_for: what was searched, and where.
        found: what was there instead.
        remedy: what the reader can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        looked_for: str | None = None,
        found: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.looked_for = looked_for
        self.found = found
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for attribute, label in _LABELS:
            value = getattr(self, attribute)
            if value:
                lines.append(f"  {label + ':':<12}{value}")
        return "\n".join(lines)


class UserError(DiffReIDError, ValueError):
    """Something the user gave cannot be used; exit code 2."""

    exit_code = 2


class RunError(DiffReIDError, RuntimeError):
    """The run itself failed through no mistake in its input; exit code 1."""


def check_at_least(name: str, value: float | None, least: int = 1) -> None:
    """Refuse a number that is too small; None, where an argument may be left out, passes.

    Args:
        name: what the reader calls the number.
        value: the number.
        least: the smallest that can be used.

    Raises:
        UserError: ``value`` is smaller.
    """
    if value is not None and value < least:
        raise UserError(f"{name} must be at least {least}.", found=str(value))


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the candidate most like ``name`` (case ignored), or None when none is as like as ``cutoff`` (0 to 1)."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def shorten(names: Iterable[str], limit: int = 8) -> str:
    """Join at most ``limit`` names for an error message and count the rest."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f", and {rest} more" if rest > 0 else "")
