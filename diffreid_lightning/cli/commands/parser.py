"""A plain command's options, with mistakes worded as elsewhere on the command line."""

from __future__ import annotations

import argparse
from typing import ClassVar, NoReturn

from diffreid_lightning.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """Raises a :class:`UserError` where argparse would print its own; for commands that build no module."""

    command: ClassVar[str]  #: as it stands in the message
    to_write: ClassVar[str]  #: what it looks like when it is right

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{self.command} cannot be run like this.", found=message, remedy=f"write {self.to_write}")
