"""Read and check a W&B sweep file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffreid_lightning.config_files import find_config
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.pipeline.config_sections import refuse_unknown_keys
from diffreid_lightning.storage.yaml_files import read_yaml
from diffreid_lightning.sweeps.distributions import Parameter, read_parameters

_METHODS = ("grid", "random", "bayes")
_KEYS = (
    "method", "metric", "parameters", "command", "program", "early_terminate", "run_cap", "name", "project", "entity",
    "description", "apiVersion", "kind", "controller",
)  # fmt: skip
_TEXT = (str, "text")
_KINDS: dict[str, tuple[Any, str]] = {
    "run_cap": (int, "a whole number"), "target": ((int, float), "a number"), "command": (list, "a list of words"),
    "name": _TEXT, "project": _TEXT, "entity": _TEXT, "program": _TEXT,
}  # fmt: skip
_METRIC = ("name", "goal", "target", "impute", "impute_while_running")
_STOPPING = ("type", "min_iter", "max_iter", "s", "eta", "strict")
#: what makes two sweeps one and the same; a higher ``run_cap`` goes on with the trials that are there
_IDENTITY = ("method", "metric", "parameters", "command", "program", "early_terminate")
_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # W&B's default


@dataclass(frozen=True)
class Stopping:
    """Early stopping by Hyperband's bands: 1 of ``eta`` trials goes on at each.

    Args:
        first: number of validations at the first band; each further one has ``eta`` times as many.
        eta: 2 or more.
        strict: compare the last value of a trial; otherwise its best so far.
    """

    first: int
    eta: int
    strict: bool


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Args:
        name: W&B group of its runs.
        method: of choosing values.
        metric: as it is logged: ``val/mAP``.
        goal: direction of the metric.
        target: value of the metric that ends the sweep.
        parameters: those that vary, and constants.
        command: words with macros (``${args}``).
        program: stands for ``${program}``.
        stopping: None runs each trial to its end.
        run_cap: largest number of trials.
        project: W&B project.
        entity: W&B account.
        identity: text that another sweep's file does not have.
    """

    name: str
    method: Literal["grid", "random", "bayes"]
    metric: str
    goal: Literal["minimize", "maximize"]
    target: float | None
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    program: str
    stopping: Stopping | None
    run_cap: int | None
    project: str | None
    entity: str | None
    identity: str


def read_sweep(name: str) -> Sweep:
    """Read a sweep file.

    Args:
        name: a path, or the name of a packaged one such as ``sweeps/supervised``.

    Raises:
        UserError: it cannot be read, or is no sweep file.
    """
    try:
        file = find_config(name)
    except UserError as error:
        error.remedy = str(error.remedy).replace("--config ", "")
        raise
    try:
        given = read_yaml(file)
    except (ValueError, OSError) as error:
        raise UserError(f"The sweep file {file} cannot be read as YAML.", found=str(error)) from error
    if not isinstance(given, dict):
        raise _refusal(file, "has no settings", "method:, metric: and parameters:", given)
    refuse_unknown_keys(given, _KEYS, str(file))
    _check_settings(given, file)
    metric = given["metric"]
    drawn = tuple(read_parameters(given["parameters"], grid=given["method"] == "grid"))
    names = [each.name for each in drawn]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _refusal(file, f"has the parameter {twice[0]} twice", "each once", names)
    return Sweep(
        name=given.get("name") or file.stem,
        method=given["method"],
        metric=metric["name"],
        goal=metric.get("goal", "minimize"),
        target=metric.get("target"),
        parameters=drawn,
        command=tuple(map(str, given.get("command") or _COMMAND)),
        program=given.get("program") or "",
        stopping=_stopping(given["early_terminate"], file) if given.get("early_terminate") else None,
        run_cap=given.get("run_cap"),
        project=given.get("project"),
        entity=given.get("entity"),
        identity=json.dumps({key: given.get(key) for key in _IDENTITY}, sort_keys=True, default=str),
    )


def _check_settings(given: Mapping[str, Any], file: Path) -> None:
    """Refuse settings that are missing or of another type."""
    metric, parameters = given.get("metric"), given.get("parameters")
    if given.get("method") not in _METHODS:
        raise _refusal(file, "has no method that runs here", " or ".join(_METHODS), given.get("method"))
    if not isinstance(parameters, Mapping) or not parameters:
        raise _refusal(file, "has no parameters", "an entry below parameters: for each setting to vary", parameters)
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        raise _refusal(file, "has no metric", "metric: {name: val/mAP, goal: maximize}", metric)
    if not all(metric["name"].partition("/")):
        raise _refusal(file, "has no metric that a run logs", "a name with its split, such as val/mAP", metric["name"])
    refuse_unknown_keys(metric, _METRIC, f"metric of {file}")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise _refusal(file, "has no goal", "minimize or maximize", metric["goal"])
    for key, (kind, words) in _KINDS.items():
        value = metric.get(key) if key == "target" else given.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise _refusal(file, f"has something else in the place of {key}", words, value)
    check_range("run_cap", given.get("run_cap"), 1)


def _stopping(given: Any, file: Path) -> Stopping:
    """Read ``early_terminate``; with ``max_iter`` the bands are counted down from it, ``s`` times."""
    where = f"early_terminate of {file}"
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise _refusal(file, "has an unknown early_terminate", "type: hyperband", given)
    refuse_unknown_keys(given, _STOPPING, where)
    numbers = {key: given[key] for key in ("eta", "min_iter", "max_iter", "s") if key in given}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refusal(file, f"has something else in the place of {key}", "a number", value)
        check_range(f"{key} in {where}", value, 2 if key == "eta" else 1)
    eta, first = numbers.get("eta", 3), numbers.get("min_iter", 0)
    if eta != int(eta):
        raise _refusal(file, "has an eta that Optuna's pruner does not take", "2, 3, 4 ...", eta)
    if {"max_iter", "s"} <= set(numbers):
        bands = [int(numbers["max_iter"] / eta**number) for number in range(1, int(numbers["s"]) + 1)]
        first = min((band for band in bands if band >= 1), default=0)
    if not first:
        raise _refusal(file, "has no band to stop trials at", "min_iter, or max_iter of at least eta, and s", numbers)
    return Stopping(int(first), int(eta), bool(given.get("strict", True)))


def _refusal(file: Path, what: str, looked_for: str, found: Any) -> UserError:
    return UserError(f"{file} {what}.", looked_for=looked_for, found=str(found), remedy="correct the sweep file")
