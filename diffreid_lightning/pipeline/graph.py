"""Read a chain from YAML: its stages in order, their inputs and outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffreid_lightning.config_files import (
    find_config,
    load_config,
    merge_layers,
    settings_of,
    split_config_flags,
)
from diffreid_lightning.errors import UserError, did_you_mean, nearest
from diffreid_lightning.paths import user_path
from diffreid_lightning.pipeline.config_sections import (
    mapping_at,
    names_at,
    refuse_unknown_keys,
    split_words,
    switch_at,
    text_at,
)

#: Variables reach the stages' configs through the environment: ``${oc.env:DIFFREID_ROOT,runs/tour}``.
PREFIX = "DIFFREID_"
#: Folder below the root for the outputs of earlier configurations.
PREVIOUS = "previous"
#: Folder below the root for a rehearsal of the chain.
REHEARSAL = "rehearsal"
#: Reference of a config to a stage's output: the folder of that stage below the root.
_EDGE = re.compile(r"\$\{oc\.env:" + PREFIX + r"ROOT\b[^}]*\}/([^/\s'\"}\],]+)")
_STAGE_KEYS = ("run", "reads", "data", "models", "makes", "needs_package", "all_threads")
_CHAIN_KEYS = ("variables", "stages", "table", "pictures")


@dataclass(frozen=True)
class Stage:
    """One command of the chain.

    Args:
        name: what it is called; its folder below the root has the same name.
        words: the command after ``python -m diffreid_lightning``.
        reads: stages whose outputs it reads: those whose folders its configs name, and any that its entry adds.
        data: variables that hold a dataset it reads.
        models: variables that hold a diffusion model it reads.
        makes: what it leaves in its folder: files, or folders with all that is in them.
        needs_package: a module without which the stage is left out, or None.
        all_threads: it gets the threads of all cores beside other stages, too; for one whose outputs are the same with
            any number of threads.
    """

    name: str
    words: tuple[str, ...]
    reads: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    needs_package: str | None = None
    all_threads: bool = False

    @property
    def available(self) -> bool:
        """Return true if the optional package it needs is installed."""
        try:
            return self.needs_package is None or importlib.util.find_spec(self.needs_package) is not None
        except ModuleNotFoundError:  # of the package around it
            return False

    @property
    def run_folder(self) -> str:
        """Return the name of its run folder: the first one, since the stage starts in an empty folder."""
        return f"{self.words[0]}-001"

    def settings(self) -> list[dict[str, Any]]:
        """Return the stage's own configs, unresolved.

        Raises:
            UserError: one of them cannot be found or read.
        """
        names, _ = split_config_flags(self.words)
        return [load_config(find_config(name)) for name in names]

    def names(self) -> tuple[str, ...]:
        """Return the folders below the root that its configs, the command's own too, and words name, except its own."""
        text = json.dumps(list(settings_of(self.words).values()), default=str, ensure_ascii=False)
        found = _EDGE.findall(text) + _EDGE.findall(" ".join(self.words))
        return tuple(sorted(set(found) - {self.name}))


@dataclass(frozen=True)
class Chain:
    """A whole chain.

    Args:
        variables: what the stages' configs read from the environment, by lower-case name; ``root`` is the folder for
            everything that is made.
        stages: in the order they run in.
        table: stage by row label of the final table.
        pictures: path below the root by label, printed at the end.
    """

    variables: Mapping[str, str]
    stages: tuple[Stage, ...]
    table: Mapping[str, str]
    pictures: Mapping[str, str]

    @property
    def root(self) -> Path:
        """Return the folder of all outputs."""
        return user_path(self.variables["root"])

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables as environment variables for the stages."""
        return {PREFIX + name.upper(): value for name, value in self.variables.items()}

    def between(self, first: str | None, last: str | None) -> tuple[Stage, ...]:
        """Return the stages from ``first`` to ``last`` inclusive; None stands for the chain's first or last.

        Raises:
            UserError: there is no such stage, or ``first`` comes after ``last``.
        """
        names = [stage.name for stage in self.stages]
        begin = 0 if first is None else _position(first, names)
        end = len(names) - 1 if last is None else _position(last, names)
        if begin > end:
            raise UserError(
                f"There is nothing to run: {first!r} comes after {last!r}.", found=f"the order is {', '.join(names)}"
            )
        return self.stages[begin : end + 1]


def read_chain(
    names: Sequence[str], overrides: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> Chain:
    """Read a chain from YAML files laid over each other.

    Args:
        names: paths, or names of packaged configs such as ``chains/tour``.
        overrides: variables given on the command line, by name. Others may stand in the environment, under their
            prefixed names, as the stages' commands read them by hand.
        environment: that the chain is run in.

    Raises:
        UserError: a file cannot be read, or says something that a chain does not have.
    """
    settings: dict[str, Any] = {}
    for name in names:
        settings = merge_layers(settings, load_config(find_config(name)))
    where = ", ".join(names)
    refuse_unknown_keys(settings, _CHAIN_KEYS, where)
    given, commands, *shown = (mapping_at(settings, key, where) for key in _CHAIN_KEYS)
    variables = {str(key): "null" if value is None else str(value) for key, value in given.items()}
    for name in overrides:
        if name not in variables:
            guess = nearest(name, variables)
            raise UserError(
                f"The chain has no variable {name!r}.",
                found=f"{', '.join(sorted(variables))} ({where})",
                remedy=f"did you mean --{guess}?" if guess else "add it under 'variables:' in a --config of your own",
            )
    variables.update({name: value for name in variables if (value := environment.get(PREFIX + name.upper()))})
    variables.update(overrides)
    if not variables.get("root"):
        raise UserError(
            f"The chain of {where} has no root.",
            found="an empty --root" if "root" in overrides else "no variable 'root', or an empty one",
            remedy="say where it works: --root DIR, or variables: {root: DIR}",
        )
    declared = [_stage(str(name), command, where) for name, command in commands.items() if command]
    stages = tuple(_with_edges(stage, tuple(commands)) for stage in declared)
    chain = Chain(variables, stages, *({label: str(name) for label, name in of.items() if name} for of in shown))
    _check(chain, [name for name, command in commands.items() if not command], where)
    return chain


def _stage(name: str, given: Any, where: str) -> Stage:
    if name in (PREVIOUS, REHEARSAL) or name.startswith(".") or Path(name).name != name:
        raise UserError(
            f"A stage of {where} cannot be called {name!r}.",
            looked_for="a name that can be a folder's below the root",
            found=f"{PREVIOUS!r}, {REHEARSAL!r} and names that begin with a dot are the chain's own",
        )
    if not isinstance(given, Mapping) or not isinstance(given.get("run"), str):
        raise UserError(
            f"Stage {name!r} of {where} says nothing to run.",
            looked_for="run: COMMAND --config CONFIG",
            found=repr(given),
        )
    where = f"stage {name!r} of {where}"
    refuse_unknown_keys(given, _STAGE_KEYS, where)
    words = split_words(given["run"], where)
    if not words:
        raise UserError(f"The command of {where} is empty.", looked_for="run: COMMAND --config CONFIG")
    lists = {key: names_at(given, key, where) for key in ("reads", "data", "models", "makes")}
    package, all_threads = text_at(given, "needs_package", where), switch_at(given, "all_threads", where)
    return Stage(name=name, words=words, **lists, needs_package=package, all_threads=all_threads)


def _with_edges(stage: Stage, stages: Sequence[str]) -> Stage:
    """Add the stages whose folders a stage's configs name to those it reads, also those that are null."""
    named = stage.names() if stage.available else ()
    found = [other for other in stages if other in named and other not in stage.reads]
    return replace(stage, reads=(*stage.reads, *found))


def _check(chain: Chain, null: Sequence[str], where: str) -> None:
    if not chain.stages:
        raise UserError(f"The chain of {where} has no stages.", looked_for="stages: {NAME: {run: ...}}")
    before: list[str] = []
    for stage in chain.stages:
        if not stage.makes:
            raise UserError(
                f"Stage {stage.name!r} of {where} does not say what it makes.",
                looked_for="makes: [FILE OR FOLDER, ...]",
                remedy="a file that changes a chain lies over it: --config chains/tour --config FILE",
            )
        for name in stage.reads:
            if name in null:
                raise UserError(
                    f"Stage {stage.name!r} of {where} reads what {name!r} makes, and that stage is null.",
                    looked_for=str(chain.root / name),
                    remedy=f"set {stage.name!r} to null, too, or name another folder in its command or its config",
                )
            if name not in before:
                raise UserError(
                    f"Stage {stage.name!r} of {where} reads {name!r}, which no earlier stage makes.",
                    found=f"before it: {', '.join(before) or 'nothing'}",
                    remedy=f"did you mean {guess!r}?" if (guess := nearest(name, before)) else "put that stage first",
                )
        for name in (*stage.data, *stage.models):
            if name not in chain.variables:
                raise UserError(
                    f"Stage {stage.name!r} of {where} reads variable {name!r}, which is not there.",
                    found=", ".join(chain.variables),
                )
        before.append(stage.name)
    for name in chain.table.values():
        _position(name, before)
    for label, name in chain.pictures.items():
        if Path(name).is_absolute():
            raise UserError(
                f"Picture {label!r} of {where} does not lie below the root.",
                looked_for="a path below the root, such as generate/contact_sheet.png",
                found=name,
            )


def _position(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    raise UserError(
        f"The chain has no stage {name!r}.",
        found=f"its stages: {', '.join(names)}",
        remedy=did_you_mean(name, names),
    )
