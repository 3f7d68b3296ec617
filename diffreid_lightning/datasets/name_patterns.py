"""List and compile patterns that read people and cameras from names, and number the words that they find."""

from __future__ import annotations

import re
from collections.abc import Iterable

from diffreid_lightning.errors import UserError

NAMES_OF_PEOPLE = (
    r"^(?P<pid>-?\d+)_\d+_c(?P<camera>\d+)_",  # LTCC: person, clothes, camera
    r"^(?P<pid>-?\d+)_(?P<camera>s\d+_c\d+)_",  # RandPerson: cameras are numbered per scene
    r"^(?P<pid>-?\d+)_(?P<camera>c\d+_s\d+)_f",
    r"^(?P<pid>-?\d+)_c(?P<camera>\d+)(?=[s_.])",  # Market-1501 and similar, VeRi-776, PersonX
    r"^(?P<pid>\d{4}|00-1)C(?P<camera>\d+)T\d+F",  # MARS
    r"^(?P<pid>\d+)-(?P<camera>\d+)-\d+-\d+\.",  # VC-Clothes
    r"^p(?P<pid>-?\d+)_s\d+_\d+\.",  # CUHK-SYSU crops: no cameras
)
"""Naming schemes of public datasets that nothing else is named by, the most specific first; for file names."""

_MAX_DIGITS = 18  # more do not fit a 64-bit number


def compile_pattern(what: str, pattern: str, owner: str = "PersonFolder") -> re.Pattern[str]:
    """Compile a regular expression from a dataset's arguments.

    Raises:
        UserError: it is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{owner}'s {what} is not a regular expression: {pattern!r}", found=str(error), remedy="correct it"
        ) from error


def number_words(words: Iterable[str]) -> tuple[dict[str, int], bool]:
    """Number the words: by their value if all are different numbers, else by sorted order.

    Returns:
        The number of each word, and whether it is the sorted order.
    """
    distinct = sorted(set(words))
    if all(word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS for word in distinct):
        values = {word: int(word) for word in distinct}
        if len(set(values.values())) == len(distinct):
            return values, False
    return {word: number for number, word in enumerate(distinct)}, True
