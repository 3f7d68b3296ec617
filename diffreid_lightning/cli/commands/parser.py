"""Parse the options of a plain command, with mistakes worded as elsewhere on the command line, and print its tables."""

from __future__ import annotations

import argparse
from itertools import takewhile
from typing import TYPE_CHECKING, NoReturn

from diffreid_lightning.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 200  # columns of a table in a file


class CommandParser(argparse.ArgumentParser):
    """Raises a :class:`UserError` where argparse would print its own; for commands that build no module.

    Args:
        example: the command as it looks when it is right, such as
            ``python -m diffreid_lightning data sheet PATH --out FILE.png``.
        description: for ``--help``.
    """

    def __init__(self, example: str, description: str | None) -> None:
        python, module, package, *words = example.split()
        self.command = " ".join(takewhile(lambda word: word.isalpha() and word.islower(), words))
        self.example = example
        prog = f"{python} {module} {package} {self.command}"
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{self.command} cannot be run like this.", found=message, remedy=f"write {self.example}")


def table_console() -> Console:
    """Open a console for tables, as wide as the terminal; in a file it has 200 columns."""
    from rich.console import Console  # not above: --help should not wait for it

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)
