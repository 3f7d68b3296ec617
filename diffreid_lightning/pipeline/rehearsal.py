"""Rehearse a chain: the stages up to the selection on a few identities, in a folder of its own below the root."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.base import PersonDataset
from diffreid_lightning.datasets.subset_dataset import Subset
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.rules.base import NOTHING_PASSES
from diffreid_lightning.pipeline.graph import REHEARSAL, Chain, Stage
from diffreid_lightning.pipeline.runner import run_chain

GENERATE, SCORED, SELECT = "generate", "score_generated", "select"
IDENTITIES, IMAGES = 50, 8  #: of a rehearsal, unless there are fewer
WITH_FLOOR = "ThresholdWithFloorAndCap"  #: the rule that counts an identity's images


@dataclass(frozen=True)
class Size:
    """Size of a chain, on which its time depends.

    Args:
        identities: number of identities.
        real: number of their training images.
        images_per_identity: images to generate of each.
    """

    identities: int
    real: int
    images_per_identity: int

    @property
    def generated(self) -> int:
        """Return the number of images to generate."""
        return self.identities * self.images_per_identity


@dataclass(frozen=True)
class Rehearsal:
    """A chain made small.

    Args:
        chain: the stages up to the selection, with a root of its own.
        settings: settings of each stage as the chain has them, by name.
        part: size of the rehearsal.
        full: size of the chain.
    """

    chain: Chain
    settings: Mapping[str, Mapping[str, Any]]
    part: Size
    full: Size

    def run(self, console: Console, dry_run: bool, jobs: int | None) -> bool:
        """Run the stages, or print their plan, as the chain does.

        Args:
            console: where.
            dry_run: stop after the plan.
            jobs: how many stages may run at once; None for what suits the machine.

        Returns:
            False if the selection was refused since no image passes, which a rehearsal is to find out.

        Raises:
            UserError: a stage refused its input.
            RunError: a stage failed.
        """
        part, full = self.part, self.full
        console.print(
            f"Rehearsal: {part.identities:,} of {full.identities:,} identities, {part.images_per_identity} of "
            f"{full.images_per_identity} generated images of each ({part.generated:,} of {full.generated:,})",
            soft_wrap=True,
        )
        try:
            run_chain(self.chain, self.chain.stages, dry_run, jobs)
        except UserError as error:
            if NOTHING_PASSES not in str(error):
                raise
            console.print("No image passes the chain's filter. What follows is about the scored images.")
            return False
        return True


def plan_rehearsal(
    chain: Chain, identities: str | None, images_per_identity: int, settings: Mapping[str, Mapping[str, Any]]
) -> Rehearsal:
    """Make a chain small.

    Args:
        chain: the chain, as its full run would be.
        identities: number of identities, 2 or more, as the command line has it; None for 50. All are taken where there
            are fewer.
        images_per_identity: images that the chain generates of each.
        settings: settings of each stage of the chain up to the selection, by name.

    Raises:
        UserError: the chain lacks a stage or a variable that a rehearsal needs, or the number cannot be used.
    """
    stages = stages_to_rehearse(chain)
    missing = [name for name in ("data", "identities") if name not in chain.variables]
    if missing:
        raise UserError(
            f"The chain cannot be rehearsed without a variable {missing[0]!r}.",
            found=f"its variables: {', '.join(chain.variables)}",
            remedy="lay your --config over chains/tour, whose configs read these variables",
        )
    if (listed := chain.variables.get("list_file", "null")) != "null":
        raise UserError(
            "A rehearsal chooses identities, and list_file names the training images.",
            found=f"list_file {listed}",
            remedy="rehearse with --list_file null",
        )
    data = open_dataset(chain.variables["data"])
    full = _size(chain, data, _number(chain, "identities"), images_per_identity)
    count = min(_count_asked(identities), full.identities)
    part = _size(chain, data, count, min(IMAGES, images_per_identity))
    variables = {**chain.variables, "root": str(chain.root / REHEARSAL), "identities": str(count)}
    small = tuple(_small(stage, settings.get(stage.name, {}), part, full) for stage in stages)
    return Rehearsal(replace(chain, variables=variables, stages=small, table={}), settings, part, full)


def stages_to_rehearse(chain: Chain) -> tuple[Stage, ...]:
    """Return the stages up to the selection.

    Raises:
        UserError: one that a rehearsal reads is missing.
    """
    names = [stage.name for stage in chain.stages]
    missing = [name for name in (GENERATE, SCORED, SELECT) if name not in names]
    if missing:
        raise UserError(
            f"The chain cannot be rehearsed without a stage {missing[0]!r}.",
            looked_for=f"stages {GENERATE!r}, {SCORED!r} and {SELECT!r}",
            found=f"its stages: {', '.join(names)}",
            remedy="lay your --config over chains/tour, which has them, and do not set them to null",
        )
    return chain.between(None, SELECT)


def _count_asked(identities: str | None) -> int:
    if identities is None:
        return IDENTITIES
    if not identities.isdecimal() or int(identities) < 2:
        raise UserError(
            "--identities of a rehearsal is no number of identities.",
            looked_for="a whole number of 2 or more; those of the full run are the chain's own variable",
            found=repr(identities),
        )
    return int(identities)


def _number(chain: Chain, name: str) -> int | float | None:
    text = chain.variables.get(name, "null")
    try:
        return None if text == "null" else int(text) if text.isdecimal() else float(text)
    except ValueError as error:
        raise UserError(f"The chain's variable {name!r} is no number.", found=repr(text)) from error


def _size(chain: Chain, data: PersonDataset, identities: int | float | None, each: int) -> Size:
    manifest = Subset(data, identities, _number(chain, "images"), int(_number(chain, "subset_seed") or 0)).manifest()
    train = manifest.filter(np.asarray(manifest.numpy("split") == "train"))
    return Size(len(train.identities()[1]), len(train), each)


def _small(stage: Stage, settings: Mapping[str, Any], part: Size, full: Size) -> Stage:
    """Return a stage made small.

    What it generates is limited, the counts of its filter keep their shares of an identity's images, and batches do not
    ask for more identities than there are.
    """
    flags: list[str] = []
    if stage.name == GENERATE:
        flags += ["--data.images_per_identity", str(part.images_per_identity)]
    if stage.name == SELECT:
        flags += _counts(last_rule(settings), part.images_per_identity / full.images_per_identity)
    asked = str(arguments_of(arguments_of(settings.get("data")).get("sampler")).get("identities_per_batch"))
    if asked.isdecimal() and int(asked) > part.identities:
        flags += ["--data.sampler.identities_per_batch", str(part.identities)]
    return replace(stage, words=(*stage.words, *flags))


def _counts(rule: Any, share: float) -> list[str]:
    """Return flags that scale floor and cap of a rule."""
    if share == 1 or class_name(rule) != WITH_FLOOR:
        return []
    counts = {name: str(arguments_of(rule).get(name)) for name in ("floor", "cap")}
    scaled = {name: math.ceil(int(count) * share) for name, count in counts.items() if count.isdecimal()}
    return [word for name, count in scaled.items() for word in (f"--rules.{name}", str(count))]


def last_rule(settings: Mapping[str, Any]) -> Any:
    """Return the rule that flags of a selection speak of; None where there is none."""
    rules = settings.get("rules")
    return (rules or [None])[-1] if isinstance(rules, list) else rules


def arguments_of(section: Any) -> Mapping[str, Any]:
    """Return the arguments of a class in a configuration; none where it is another value."""
    arguments = section.get("init_args") if isinstance(section, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def class_name(section: Any) -> str:
    """Return the short name of a class in a configuration, which may stand alone."""
    return str(section.get("class_path") if isinstance(section, Mapping) else section).rpartition(".")[2]
