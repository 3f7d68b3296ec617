"""Decide which stages of a chain must run, and which results belong to its present configuration."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from diffreid_lightning.config_files import settings_of
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.inspect import refuse_unanswerable
from diffreid_lightning.errors import UserError
from diffreid_lightning.pipeline.fingerprints import Record, begun_file, output_hash, record_file, stage_key
from diffreid_lightning.pipeline.graph import PREFIX, Chain, Stage
from diffreid_lightning.pipeline.stage_attempt import can_go_on, read_outputs

State = Literal["done", "goes on", "to do", "depends", "left out"]


class Planned(NamedTuple):
    """Planned action for a stage."""

    stage: Stage
    state: State
    why: str


def plan(chain: Chain, stages: tuple[Stage, ...]) -> list[Planned]:
    """Decide for each stage if it must run."""
    planned: list[Planned] = []
    waiting = {stage.name for stage in stages}
    for stage in stages:
        uncertain = [
            p.stage.name for p in planned if p.stage.name in stage.reads and p.state not in ("done", "left out")
        ]
        if uncertain and _lacking(chain, stage) is None:
            verb = "comes" if len(uncertain) == 1 else "come"
            planned.append(Planned(stage, "depends", f"on what {' and '.join(uncertain)} {verb} to"))
        else:
            planned.append(plan_one(chain, stage, waiting))
    return planned


def plan_one(chain: Chain, stage: Stage, waiting: set[str] | frozenset[str] = frozenset()) -> Planned:
    """Decide if a stage must run, whose inputs are there.

    Args:
        chain: the chain.
        stage: the stage.
        waiting: stages that are going to be run before it.

    Raises:
        UserError: a stage that it reads has not been run, or an input cannot be read.
    """
    lacking = _lacking(chain, stage)
    if lacking is not None:
        needed = "" if lacking is stage else f", which {lacking.name} needs"
        return Planned(stage, "left out", f"{lacking.needs_package} is not installed{needed}")
    missing = [name for name in stage.reads if Record.read(record_file(chain.root, name)) is None]
    if missing:
        if missing[0] in waiting:
            return Planned(stage, "depends", f"on what {missing[0]} comes to")
        raise UserError(
            f"Stage {stage.name!r} reads what {missing[0]!r} makes, which has not been run.",
            looked_for=str(chain.root / missing[0]),
            remedy=f"start earlier: --from {missing[0]}",
        )
    key = stage_key(chain, stage, read_outputs(chain, stage)[0])
    record = Record.read(record_file(chain.root, stage.name))
    if record is not None and record.key == key:
        if output_hash(chain.root / stage.name, stage.makes) == record.output:
            return Planned(stage, "done", "nothing it depends on has changed")
        return Planned(stage, "to do", "what it made was changed or removed")
    begun = Record.read(begun_file(chain.root, stage.name))
    if begun is not None and begun.key == key:
        if can_go_on(chain, stage):
            return Planned(stage, "goes on", "it was interrupted")
        return Planned(stage, "to do", "it was interrupted before its first checkpoint")
    return Planned(stage, "to do", "not run yet" if record is None else "its input, config or code has changed")


def refuse_untestable(chain: Chain, planned: Sequence[Planned]) -> None:
    """Refuse a stage that will test where nothing can be measured, before those in front of it take hours.

    Raises:
        UserError: the dataset it tests on has no query or gallery, or no query has a match; or it cannot be read.
    """
    before = None
    for stage, state, _ in planned:
        name = None if state in ("done", "left out") else _tested(stage)
        if name is not None and name in chain.variables:
            manifest = open_dataset(chain.variables[name]).manifest()
            try:
                refuse_unanswerable(manifest)
            except UserError as error:
                raise UserError(
                    f"Stage {stage.name!r} cannot test on {chain.variables[name]}. {error.what}",
                    looked_for=error.looked_for,
                    found=error.found,
                    remedy=f"give --{name} folders query and gallery beside train, of other people"
                    + (f"; or end before the stages that test: --until {before}" if before else ""),
                ) from error
        before = stage.name


def _tested(stage: Stage) -> str | None:
    """Return the variable that names what a stage tests on; None where it does not test, or on something else."""
    if stage.words[0] not in ("fit", "test"):
        return None
    settings = settings_of(stage.words)
    found = re.fullmatch(r"\$\{oc\.env:" + PREFIX + r"(\w+)[^}]*\}", str(settings.get("data.init_args.test")))
    untested = stage.words[0] == "fit" and settings.get("test_with") == "none"
    return None if found is None or untested else found[1].lower()


def _lacking(chain: Chain, stage: Stage) -> Stage | None:
    """Return the stage whose optional package is missing: this one, or one that it reads and that has not been run."""
    if not stage.available:
        return stage
    unread = (name for name in stage.reads if Record.read(record_file(chain.root, name)) is None)
    by_name = {each.name: each for each in chain.stages}
    return next((found for name in unread if (found := _lacking(chain, by_name[name])) is not None), None)


def current(chain: Chain, asked: tuple[Stage, ...]) -> set[str]:
    """Return the stages whose results belong to the present configuration of the chain.

    Those that were asked for do, and those they go back to, as they were just run or read; the others may be older.
    """
    taken = _gone_back_to(chain, asked)
    outputs: dict[str, str] = {}
    for stage in chain.stages:
        record = Record.read(record_file(chain.root, stage.name))
        if record is None or not stage.available:
            continue
        with contextlib.suppress(UserError):  # what it was made from is not there any more
            known = set(stage.reads) <= outputs.keys()
            if stage.name in taken or (known and record.key == stage_key(chain, stage, outputs)):
                outputs[stage.name] = record.output
    return set(outputs)


def _gone_back_to(chain: Chain, asked: tuple[Stage, ...]) -> set[str]:
    """Return stages and their ancestors."""
    names = {stage.name for stage in asked}
    for stage in reversed(chain.stages):
        names.update(stage.reads if stage.name in names else ())
    return names


def older(chain: Chain, asked: tuple[Stage, ...]) -> list[str]:
    """Return the ancestors of the asked stages that are outdated, and are read as they are."""
    found = []
    read = _gone_back_to(chain, asked) - {stage.name for stage in asked}
    for stage in chain.stages:
        if stage.name in read:
            try:
                found += [] if plan_one(chain, stage).state == "done" else [stage.name]
            except UserError:  # what it was made of is not there
                found.append(stage.name)
    return found
