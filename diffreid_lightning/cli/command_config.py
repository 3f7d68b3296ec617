"""Read the configuration of a command: layers, flags and references, before the parser sees it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffreid_lightning import config_files
from diffreid_lightning.cli import (
    command_line_flags,
    config_errors,
    linked_settings,
    references,
    run_folder,
    start_checkpoint,
    value_errors,
)
from diffreid_lightning.cli.config_classes import read_word
from diffreid_lightning.cli.lightning_parser import TOP_LEVEL, has_setting
from diffreid_lightning.paths import user_path


@dataclass(frozen=True)
class Configuration:
    """Configuration of a command: its files and flags, merged.

    Args:
        written: all layers and flags in one mapping, with references.
        resolved: the same without references, as the parser is given it.
        asked: the words that ask the parser for something (``--help``, ``--print_config``).
    """

    written: dict[str, Any]
    resolved: dict[str, Any]
    asked: list[str]


def read_configuration(subcommand: str, words: Sequence[str]) -> Configuration:
    """Merge configs and flags, and resolve references.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        words: the command line after it.

    Raises:
        UserError: a file or a flag cannot be read, a reference leads nowhere, or a value is left open or would be
            overruled.
    """
    names, words = config_files.split_config_flags(words)
    given, asked = command_line_flags.split_flags(words)
    default, *upper = config_files.load_layers(subcommand, names)
    settings = functools.reduce(config_files.merge_layers, upper, default)
    saved = _config_of_checkpoint(subcommand, command_line_flags.with_flags(settings, given))
    if saved is not None:
        settings = functools.reduce(config_files.merge_layers, upper, saved)
    settings = {key: value for key, value in settings.items() if has_setting(subcommand, key)}
    written = command_line_flags.with_flags(settings, given)
    config_errors.refuse_missing(written)
    config_errors.refuse_sections(written)
    resolved = linked_settings.settle(references.resolve_references(written, linked_settings.LINKS), subcommand)
    error = value_errors.explain_nulls(resolved, TOP_LEVEL)
    if error is not None:
        raise error
    return Configuration(written, resolved, asked)


def _config_of_checkpoint(subcommand: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the run whose checkpoint is evaluated, which takes the default's place, or None."""
    asked = settings.get("ckpt_path")
    if subcommand == "fit" or not isinstance(asked, str) or read_word(asked) is None:
        return None
    config_errors.refuse_sections(settings)
    settings = references.resolve_references(settings, linked_settings.LINKS)
    root = user_path(str(settings["trainer"].get("default_root_dir") or "runs"))
    path = start_checkpoint.resolve_checkpoint(settings["ckpt_path"], root)
    run = start_checkpoint.run_of_checkpoint(path) if path is not None else None
    if run is None or not (run / run_folder.CONFIG_FILE).is_file():
        return None
    saved = config_files.load_config(run / run_folder.CONFIG_FILE)
    config_errors.refuse_sections(saved)
    # The run folder may have been moved.
    saved["trainer"] = {**(saved.get("trainer") or {}), "default_root_dir": str(run.parent)}
    return {key: saved[key] for key in ("seed_everything", "trainer", "model", "data") if key in saved}
