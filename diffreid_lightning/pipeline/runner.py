"""Plan and run a chain: skip finished stages, continue interrupted ones, print the summary."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.pipeline.earlier_outputs import Aside
from diffreid_lightning.pipeline.fingerprints import (
    RECORDS,
    Record,
    begun_file,
    forget_hashes,
    output_hash,
    record_file,
    stage_key,
)
from diffreid_lightning.pipeline.graph import Chain, Stage
from diffreid_lightning.pipeline.stage_process import last_words, run_logged
from diffreid_lightning.pipeline.summary import print_report
from diffreid_lightning.storage import locks

_PATIENCE = 15.0  # seconds; a DataLoader's workers look for a killed parent every five

State = Literal["done", "goes on", "to do", "depends", "left out"]


class Planned(NamedTuple):
    """Planned action for a stage."""

    stage: Stage
    state: State
    why: str


def run_chain(chain: Chain, stages: tuple[Stage, ...], dry_run: bool) -> None:
    """Print the plan and run it.

    Args:
        chain: the chain.
        stages: which of its stages; what lies before them must have been run.
        dry_run: stop after the plan, and the commands it consists of.

    Raises:
        UserError: a stage refused its input (exit code 2), or an earlier stage is missing.
        RunError: a stage failed.
    """
    console = Console(highlight=False)
    forget_hashes()  # a notebook runs many chains in one process, and things change between them
    _print_plan(console, chain, plan(chain, stages))
    older = _older(chain, stages)
    _print_older(console, older)
    if dry_run:
        _print_commands(console, chain, stages)
        return
    with lock_folder(chain.root):
        aside = Aside(chain.root, [stage.name for stage in chain.stages])
        for number, stage in enumerate(stages, 1):
            planned = _plan_one(chain, stage)
            if planned.state in ("done", "left out"):
                continue
            console.rule(f"{stage.name} ({number} of {len(stages)})")
            _run_stage(chain, stage, aside, console)
    print_report(console, chain, _current(chain, stages))
    _print_older(console, older)


def plan(chain: Chain, stages: tuple[Stage, ...]) -> list[Planned]:
    """Decide for each stage if it must run."""
    planned: list[Planned] = []
    waiting = {stage.name for stage in stages}
    for stage in stages:
        uncertain = [
            p.stage.name for p in planned if p.stage.name in stage.reads and p.state not in ("done", "left out")
        ]
        if uncertain and stage.available:
            verb = "comes" if len(uncertain) == 1 else "come"
            planned.append(Planned(stage, "depends", f"on what {' and '.join(uncertain)} {verb} to"))
        else:
            planned.append(_plan_one(chain, stage, waiting))
    return planned


def _plan_one(chain: Chain, stage: Stage, waiting: set[str] | frozenset[str] = frozenset()) -> Planned:
    if not stage.available:
        return Planned(stage, "left out", f"{stage.needs_package} is not installed")
    missing = [name for name in stage.reads if Record.read(record_file(chain.root, name)) is None]
    if missing:
        if missing[0] in waiting:
            return Planned(stage, "depends", f"on what {missing[0]} comes to")
        raise UserError(
            f"Stage {stage.name!r} reads what {missing[0]!r} makes, which has not been run.",
            looked_for=str(chain.root / missing[0]),
            remedy=f"start earlier: --from {missing[0]}",
        )
    key = stage_key(chain, stage, _read_outputs(chain, stage)[0])
    record = Record.read(record_file(chain.root, stage.name))
    if record is not None and record.key == key:
        if output_hash(chain.root / stage.name, stage.makes) == record.output:
            return Planned(stage, "done", "nothing it depends on has changed")
        return Planned(stage, "to do", "what it made was changed or removed")
    begun = Record.read(begun_file(chain.root, stage.name))
    if begun is not None and begun.key == key:
        if _can_go_on(chain, stage):
            return Planned(stage, "goes on", "it was interrupted")
        return Planned(stage, "to do", "it was interrupted before its first checkpoint")
    return Planned(stage, "to do", "not run yet" if record is None else "its input, config or code has changed")


def _read_outputs(chain: Chain, stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """Return the output hashes of the finished stages that a stage reads, and of all its ancestors."""
    outputs, ancestors = {}, {}
    for name in stage.reads:
        record = Record.read(record_file(chain.root, name))
        assert record is not None
        outputs[name] = record.output
        ancestors.update(record.ancestors)
    return outputs, {**ancestors, **outputs}


def _current(chain: Chain, asked: tuple[Stage, ...]) -> set[str]:
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


def _older(chain: Chain, asked: tuple[Stage, ...]) -> list[str]:
    """Return the ancestors of the asked stages that are outdated, and are read as they are."""
    older = []
    read = _gone_back_to(chain, asked) - {stage.name for stage in asked}
    for stage in chain.stages:
        if stage.name in read:
            try:
                older += [] if _plan_one(chain, stage).state == "done" else [stage.name]
            except UserError:  # what it was made of is not there
                older.append(stage.name)
    return older


def _print_older(console: Console, older: list[str]) -> None:
    if older:
        names = ", ".join(older)
        console.print(f"read as they are, though changed or made with other settings: {names}", soft_wrap=True)


def _run_stage(chain: Chain, stage: Stage, aside: Aside, console: Console) -> None:
    outputs, ancestors = _read_outputs(chain, stage)
    key = stage_key(chain, stage, outputs)
    begun = Record.read(begun_file(chain.root, stage.name))
    folder = chain.root / stage.name
    continued = begun is not None and begun.key == key and _can_go_on(chain, stage)
    if folder.exists() and not continued:
        console.print(f"what was made here before is kept: {aside.put(stage.name)}", soft_wrap=True)
    record_file(chain.root, stage.name).unlink(missing_ok=True)
    Record(key, "", 0.0, ancestors).write(begun_file(chain.root, stage.name))
    log = chain.root / RECORDS / f"{stage.name}.log"
    started = time.monotonic()
    code = run_logged(_words(chain, stage), chain.environment, log)
    if code:
        raise _failed(chain, stage, code, log)
    output = output_hash(folder, stage.makes)
    if output is None:
        missing = [name for name in stage.makes if not (folder / name).exists()]
        raise RunError(
            f"Stage {stage.name!r} ended without making {', '.join(missing)}.",
            looked_for=", ".join(str(folder / name) for name in missing),
            found=f"its log: {log}",
            remedy="give its config the folder the chain expects",
        )
    seconds = time.monotonic() - started
    Record(key, output, round(seconds, 1), ancestors).write(record_file(chain.root, stage.name))
    begun_file(chain.root, stage.name).unlink(missing_ok=True)
    console.print(f"{stage.name}: {seconds:.0f} s", highlight=False)


def _can_go_on(chain: Chain, stage: Stage) -> bool:
    """Return true if an interrupted stage can continue: a fit needs its first checkpoint."""
    return stage.words[0] != "fit" or (_fit(chain, stage) / "checkpoints" / "last.ckpt").is_file()


def _fit(chain: Chain, stage: Stage) -> Path:
    return chain.root / stage.name / stage.run_folder


def _words(chain: Chain, stage: Stage) -> list[str]:
    """Return the command that continues a stage, or starts it."""
    words = list(stage.words)
    if words[0] == "fit" and _can_go_on(chain, stage):
        words += ["--ckpt_path", str(_fit(chain, stage))]
    return words


def _failed(chain: Chain, stage: Stage, code: int, log: Path) -> RunError | UserError:
    kind = UserError if code == 2 else RunError
    how = f"with exit code {code}" if code > 0 else f"on signal {-code}"
    return kind(
        f"Stage {stage.name!r} ended {how}.",
        found=f"{last_words(log)}\n  (log: {log})",
        remedy=f"mend it and run the chain again: it goes on here. This stage alone:\n"
        f"    {_variables(chain)} python -m diffreid_lightning {shlex.join(_words(chain, stage))}",
    )


def _print_plan(console: Console, chain: Chain, planned: list[Planned]) -> None:
    console.print(f"{chain.root}: {len(planned)} {'stage' if len(planned) == 1 else 'stages'}", soft_wrap=True)
    width = max(len(stage.name) for stage, _, _ in planned)
    for stage, state, why in planned:
        console.print(f"  {stage.name:<{width}}  {state:<8}  {why}", soft_wrap=True)


def _print_commands(console: Console, chain: Chain, stages: tuple[Stage, ...]) -> None:
    """Print the stages as shell commands."""
    console.print("\nThe same by hand:", highlight=False)
    console.print(f"  export {_variables(chain)}", soft_wrap=True, markup=False)
    for stage in stages:
        if stage.available:
            console.print(f"  python -m diffreid_lightning {shlex.join(stage.words)}", soft_wrap=True, markup=False)


def _variables(chain: Chain) -> str:
    """Return the chain's variables as shell assignments."""
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(chain.environment.items()))


@contextlib.contextmanager
def lock_folder(root: Path) -> Iterator[None]:
    """Lock a chain's folder against a second run; the lock ends with the process.

    Raises:
        UserError: one is at work there, or there can be no folder.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"There can be no folder {root}.",
            found=f"{type(error).__name__}: {error}",
            remedy="give another one",
        ) from error
    # A stage inherits the lock: while one survives a killed chain, no second run starts it. Its own
    # workers have it too, and outlive it by seconds.
    file = root / ".lock"
    lock = locks.take(file, inheritable=True)
    if lock is None:
        print(f"Another run is at work in {root}; waiting {_PATIENCE:g} s for it to end.", file=sys.stderr, flush=True)
        lock = locks.take(file, inheritable=True, patience=_PATIENCE)
    if lock is None:
        raise UserError(
            f"Another run is at work in {root}.",
            remedy="wait for it, or give this one another folder",
        )
    try:
        yield
    finally:
        lock.release()
