"""Write the command of a trial: the sweep's, with its macros replaced as W&B's agent does.

Lists, mappings and null are written as JSON, which the command line reads; W&B's agent writes them as Python does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.sweeps.sweep_file import Sweep

_PACKAGE = __package__.partition(".")[0]
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(\w+)\}")
_JSON = "args.json"
_OWN = ("--trainer.default_root_dir", "--ckpt_path")  # of each trial


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the values of parameters, nested as in the sweep file.

    Args:
        values: by keys.
    """
    nested: dict[str, Any] = {}
    for keys, value in values.items():
        node = nested
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
    return nested


def write_arguments(values: Mapping[tuple[str, ...], Any], folder: Path) -> None:
    """Write the file that ``${args_json_file}`` names."""
    (folder / _JSON).write_text(json.dumps(nest(values), default=str), encoding="utf-8")


def trial_words(sweep: Sweep, values: Mapping[tuple[str, ...], Any], folder: Path) -> list[str]:
    """Return the words of a trial after ``python -m diffreid_lightning``.

    Args:
        sweep: the sweep.
        values: of the parameters, by keys.
        folder: of the trial.

    Raises:
        UserError: the command is not a ``fit`` of this package, has an unknown macro, or sets the trial's own folder.
    """
    words: list[str] = []
    macros = _macros(sweep, nest(values), folder)
    for word in sweep.command:
        macro = _MACRO.fullmatch(word)
        if macro is None:
            words.append(_VARIABLE.sub(lambda found: os.environ.get(found[1], found[1]), word))
        elif macro[1] in macros:
            words += macros[macro[1]]
        else:
            raise UserError(
                f"The sweep's command has a macro that is unknown or makes no words of a fit: {word}.",
                looked_for=shorten([f"${{{name}}}" for name in macros], len(macros)),
                remedy="correct the command in the sweep file; ${args} are all parameters",
            )
    place = words.index(_PACKAGE) if _PACKAGE in words else 0
    if not place or words[place - 1] != "-m" or words[place + 1 : place + 2] != ["fit"]:
        raise UserError(
            "The sweep's command is not a fit of this package.",
            looked_for=f"command: [${{env}}, ${{interpreter}}, -m, {_PACKAGE}, fit, ${{args}}]",
            found=shorten(words, 8),
            remedy="correct the command; other programs run with wandb sweep and wandb agent",
        )
    own = [word for word in words if word.partition("=")[0] in _OWN]
    if own:
        raise UserError(f"The sweep sets {own[0]}, which differs from trial to trial.", remedy="remove it")
    return words[place + 1 :]


def _macros(sweep: Sweep, named: Mapping[str, Any], folder: Path) -> dict[str, list[str]]:
    written_as_json = {key for key, value in named.items() if value is None or isinstance(value, (list, dict))}
    texts = {key: json.dumps(value) if key in written_as_json else str(value) for key, value in named.items()}
    return {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [sweep.program],
        "args": [f"--{key}={text}" for key, text in texts.items()],
        "args_no_equals": [word for key, text in texts.items() for word in (f"--{key}", text)],
        "args_json_file": [str(folder / _JSON)],
    }
