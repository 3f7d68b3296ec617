"""Define UserError (exit code 2) and RunError (exit code 1), each with a four-part message.

The parts are what happened, what was looked for, what was found, and what to do. ``UserError`` is for what the person
at the keyboard can mend (a path, a key, a file), ``RunError`` for what went wrong underneath (a full disk, a loss that
is no longer finite). The command line prints both without a traceback.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

LARGEST_SEED = 2**32 - 1
LARGEST_SIDE = 8192  #: of an image, in pixels
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


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def translate_disk_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn an error of the disk into a :class:`RunError`.

    Args:
        what: one sentence that says what happened.
        remedy: what the reader can do about it.
    """
    try:
        yield
    except OSError as error:
        raise RunError(what, found=str(error), remedy=remedy) from error


def check_range(
    name: str,
    value: float | None,
    least: float = 0,
    most: float | None = None,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a number outside of its range; None, where an argument may be left out, passes.

    Args:
        name: what the reader calls the number.
        value: the number.
        least: the smallest that can be used.
        most: the largest; None is any that is finite.
        above: ``least`` itself is too small.
        below: ``most`` itself is too large.

    Raises:
        UserError: ``value`` is outside, infinite, or not a number.
    """
    if value is None:
        return
    high = value >= least and (value != least or not above)  # false for NaN
    low = value < float("inf") if most is None else value <= most and (value != most or not below)
    if not high or not low:
        lower = f"greater than {least:,}" if above else f"at least {least:,}"
        upper = "finite" if most is None else f"less than {most:,}" if below else f"at most {most:,}"
        needed = lower if most is None and value == value and not high else f"{lower} and {upper}"
        raise UserError(f"{name} must be {needed}.", found=str(value))


def check_pair(name: str, values: Sequence[float], least: float, most: float, *, apart: bool = False) -> None:
    """Refuse two numbers that are no interval within a range.

    Args:
        name: what the reader calls the numbers.
        values: the numbers.
        least: the smallest that can be used.
        most: the largest.
        apart: equal numbers are refused as well.

    Raises:
        UserError: they are not two, one of them is outside, or the first is the greater one.
    """
    sound = len(values) == 2 and all(least <= value <= most for value in values) and values[0] <= values[1]
    if not sound or (apart and values[0] == values[1]):
        numbers = "two different numbers" if apart else "two numbers"
        raise UserError(f"{name} must be {numbers} from {least:,} to {most:,}, the smaller first.", found=str(values))


def check_image_size(name: str, size: Sequence[int]) -> None:
    """Refuse a height and width that no image has.

    Raises:
        UserError: they are not two whole numbers from 1 to 8,192.
    """
    if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE and side == int(side) for side in size):
        raise UserError(
            f"{name} must be height and width, each from 1 to {LARGEST_SIDE:,} pixels.", found=str(list(size))
        )


def check_seed(name: str, seed: int | None) -> None:
    """Refuse a seed that random generators do not take; None passes."""
    check_range(name, seed, 0, LARGEST_SEED)


def check_workers(name: str, count: int | None, least: int = 0) -> None:
    """Refuse a number of processes that a machine of so many cores cannot run; None passes.

    Raises:
        UserError: it is less than ``least``, or more than 32 for each core.
    """
    check_range(name, count, least, 32 * (os.cpu_count() or 1))


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the candidate most like ``name`` (case ignored), or None when none is as like as ``cutoff`` (0 to 1)."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str | None = None, cutoff: float = 0.5) -> str | None:
    """Return the remedy for a wrong name: the candidate that :func:`nearest` finds, or else another remedy."""
    guess = nearest(name, candidates, cutoff)
    return f"did you mean {guess!r}?" if guess else otherwise


@contextmanager
def needs_extra(extra: str, message: str, looked_for: str | None = None) -> Iterator[None]:
    """Word a failed import of an optional package: what cannot be done, and the extra to install.

    Args:
        extra: of this package, such as ``onnx``.
        message: what cannot be done without it.
        looked_for: the packages, where the failed import does not name them all.

    Raises:
        UserError: an import in the block failed.
    """
    try:
        yield
    except ImportError as error:
        remedy = f"pip install 'diffreid_lightning[{extra}]'"
        raise UserError(message, looked_for=looked_for, found=str(error), remedy=remedy) from error


def shorten(names: Iterable[str], limit: int = 8) -> str:
    """Join at most ``limit`` names for an error message and count the rest."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f", and {rest} more" if rest > 0 else "")
