"""Run ``select``: apply rules to a scored manifest, and write Diff-Person."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ActionConfigFile

from diffreid_lightning.cli import command_line_flags, config_classes, config_errors, references
from diffreid_lightning.cli.library_errors import own_error
from diffreid_lightning.cli.lightning_parser import PROGRAM, LayeredParser
from diffreid_lightning.filtering.selection import DATASET, REPORT, DiffPersonSelection

DESCRIPTION = "Choose among scored images and write Diff-Person."


def select_command(words: Sequence[str]) -> int:
    """Run the command; ``configs/stages/select.yaml`` is what no arguments mean.

    Raises:
        UserError: the configuration or the scored images cannot be used, or nothing passes.
        RunError: the disk refuses.
    """
    written, asked = command_line_flags.written_settings("select", words)
    resolved = references.resolve_references(written)
    parser = _parser(written)
    try:
        config = parser.instantiate_classes(
            parser.parse_args(["--config", config_classes.write_word(resolved), *asked])
        )
        stage = DiffPersonSelection(
            **{name: config[name] for name in config_classes.accepted_arguments(DiffPersonSelection)}
        )
    except (ArgumentError, ValueError) as error:
        raise (
            own_error(error)
            or config_errors.explain_arguments(resolved, "", DiffPersonSelection)
            or config_errors.refused("select", error)
        ) from error
    report = stage.run()
    print(stage.words(report))
    print(f"dataset: {stage.out / DATASET}\npictures and tables: {stage.out / REPORT}")
    return 0


def _parser(written: Mapping[str, Any]) -> LayeredParser:
    parser = LayeredParser(prog=f"{PROGRAM} select", description=DESCRIPTION, written=written)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML laid over configs/stages/select.yaml")
    parser.add_class_arguments(DiffPersonSelection)
    return parser
