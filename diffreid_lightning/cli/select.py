"""``python -m diffreid_lightning select``: rules on a scored manifest, Diff-Person on the disk."""

from __future__ import annotations

import functools
import json
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from diffreid_lightning.cli import hints, layers
from diffreid_lightning.cli.refusals import own_error
from diffreid_lightning.filtering.diff_person import DATASET, REPORT, DiffPersonSelection
from diffreid_lightning.packaged import configs_folder

DEFAULT = "pipeline/select.yaml"


def select_command(words: Sequence[str]) -> int:
    """Run the command; ``configs/pipeline/select.yaml`` is what no arguments mean.

    Args:
        words: the command line after ``select``.

    Returns:
        0.

    Raises:
        UserError: the configuration or the scored images cannot be used, or nothing passes.
        RunError: the disk refuses.
    """
    names, overrides = layers.split_config_flags(words)
    upper = [layers.load_config(layers.find_config(name)) for name in names]
    settings = functools.reduce(layers.merge_layers, upper, layers.load_config(configs_folder() / DEFAULT))
    written = hints.with_overrides(settings, overrides)
    parser = _parser()
    try:
        config = parser.instantiate_classes(parser.parse_args(["--config", json.dumps(settings), *overrides]))
        stage = DiffPersonSelection(**{name: config[name] for name in hints.accepted_arguments(DiffPersonSelection)})
    except (ArgumentError, ValueError) as error:
        raise (
            own_error(error)
            or hints.explain_class(written, "select", DiffPersonSelection)
            or hints.explain_words(overrides)
            or hints.refused("select", error)
        ) from error
    report = stage.run()
    print(stage.words(report))
    print(f"dataset: {stage.out / DATASET}\npictures and tables: {stage.out / REPORT}")
    return 0


def _parser() -> ArgumentParser:
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = ArgumentParser(
        prog="python -m diffreid_lightning select", exit_on_error=False, parser_mode="omegaconf+", allow_abbrev=False
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML laid over configs/pipeline/select.yaml")
    parser.add_class_arguments(DiffPersonSelection)
    return parser
