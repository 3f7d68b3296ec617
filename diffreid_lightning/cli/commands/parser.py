"""Parse the options of a plain command, with mistakes worded as elsewhere on the command line."""

from __future__ import annotations

import argparse
from itertools import takewhile
from typing import NoReturn

from diffreid_lightning.errors import UserError


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
