"""Run ``completion``: print a script that completes commands, options and packaged configs in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.errors import needs_extra

#: the name that is completed: an alias of ``python -m diffreid_lightning``
ALIAS = "diffreid"
_USAGE = "python -m diffreid_lightning completion SHELL"
_SHELLS = ("bash", "zsh", "tcsh")


def completion_command(words: Sequence[str]) -> int:
    """Print the script.

    Raises:
        UserError: the shell is unknown, or shtab is not installed.
    """
    parser = CommandParser(_USAGE, __doc__)
    parser.add_argument("shell", choices=_SHELLS, help=f"the shell, in which {ALIAS} is an alias of the command")
    shell = parser.parse_args(list(words)).shell
    with needs_extra("completion", "Shell completion is written by shtab."):
        import shtab
    print(shtab.complete(_whole_parser(), shell=shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Return a parser of all commands, with the options of those that Lightning runs."""
    from diffreid_lightning.cli.command_config import read_configuration
    from diffreid_lightning.cli.main import PLAIN_COMMANDS, SUBCOMMANDS
    from diffreid_lightning.packaged import configs_folder

    folder = configs_folder()
    packaged = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    parser = argparse.ArgumentParser(prog=ALIAS)
    commands, own = parser.add_subparsers(), _trainer_options(SUBCOMMANDS)
    for name in PLAIN_COMMANDS:
        commands.add_parser(name, help=name)  # shtab leaves commands without help out
    for name in SUBCOMMANDS:
        command = commands.add_parser(name, help=name)
        settings = dict.fromkeys(_settings(read_configuration(name, []).written))
        for option, choices in {**settings, **own[name], "--config": packaged}.items():
            command.add_argument(option, choices=choices)
    return parser


def _trainer_options(subcommands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each subcommand's parser with their choices, None where they are not a few."""
    from lightning.pytorch import LightningDataModule, LightningModule

    from diffreid_lightning.cli.lightning_cli import DiffReIDCLI, LayeredParser

    found: dict[str, dict[str, Any]] = {}

    class _Parsers(DiffReIDCLI):
        def parse_arguments(self, *_: Any) -> None:
            for name, parser in self._subcommand_parsers.items():
                flags = {flag: action for action in parser._actions for flag in action.option_strings}
                found[name] = {
                    flag: each.choices for flag, each in flags.items() if flag[:2] == "--" and flag[-1] != "+"
                }
            raise StopIteration

    with suppress(StopIteration):
        _Parsers(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=LayeredParser,
            parser_kwargs={name: {} for name in subcommands},
            auto_configure_optimizers=False,
        )
    for options in found.values():
        del options["--help"]  # of every parser
    return found


def _settings(section: Mapping[str, Any], above: str = "--") -> Iterator[str]:
    """Yield the flags of a configuration; the arguments of a class need no ``init_args``."""
    for key, value in section.items():
        name = above.removesuffix(".") + "." if key == "init_args" else f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _settings(value, name if key == "init_args" else f"{name}.")
        elif key != "class_path":
            yield name
