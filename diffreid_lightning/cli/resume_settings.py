"""Apply or refuse changed settings when training continues from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from diffreid_lightning.backbones.timm_model import LOCAL_SCHEME
from diffreid_lightning.config_files import Change
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.paths import user_path

#: where a checkpoint keeps the configuration it was trained with, as YAML
CONFIG_KEY = "run_config"
_ROOT = "trainer.default_root_dir"


def refuse_start_changes(changes: Iterable[Change], names: Sequence[str], *, evaluating: bool) -> None:
    """Refuse arguments of the model that the checkpoint overrules.

    Args:
        changes: from the configuration of the checkpoint to the one that is run.
        names: the arguments, as the module's ``start_only`` lists them.
        evaluating: true for evaluation, where an argument that is left out changes nothing.

    Raises:
        UserError: one of them has changed.
    """
    for change in changes:
        for name in names:
            key = f"model.init_args.{name}"
            if not f"{change.key}.".startswith(f"{key}.") or (evaluating and not change.now):
                continue
            if _is_one_place(change.before, change.now):
                continue
            flag = change.key.replace(".init_args", "")
            raise UserError(
                f"model.{name} applies only at the start of a training; the checkpoint holds the trained weights.",
                looked_for=f"{flag} {change.before}, as the run was begun",
                found=str(change.now),
                remedy=f"give --{flag} as the run was begun (its config.yaml)"
                + ("" if evaluating else ", or leave --ckpt_path out to start a new run"),
            )


def _is_one_place(before: Any, now: Any) -> bool:
    """Return true if two values are one path, spelled in two ways."""
    paths = [each.removeprefix(LOCAL_SCHEME) for each in (before, now) if isinstance(each, str)]
    if len(paths) != 2 or not all(os.sep in path for path in paths):
        return False
    return user_path(paths[0]).resolve() == user_path(paths[1]).resolve()


def refuse_another_root(changes: Iterable[Change], run: Path) -> None:
    """Refuse another run root for a continued run, which stays in its folder.

    Args:
        changes: from the configuration of the checkpoint to the one that is run.
        run: the run's folder.

    Raises:
        UserError: ``trainer.default_root_dir`` has changed, and is not where the run lies.
    """
    for change in changes:
        if change.key == _ROOT and user_path(str(change.now or "runs")).resolve() != run.resolve().parent:
            raise UserError(
                f"{run} can only continue in its own folder.",
                looked_for=f"--{_ROOT} {run.parent}",
                found=str(change.now),
                remedy=f"leave --{_ROOT} out; or copy the checkpoint to another folder and name the copy, which starts "
                "a run of its own",
            )


def apply_to_callbacks(callbacks: Iterable[Callback], states: Mapping[str, Any], changes: Iterable[Change]) -> None:
    """Write changed callback arguments (``EarlyStopping.patience``) into the states to be loaded.

    Args:
        callbacks: the trainer's.
        states: the checkpoint's states of callbacks, by ``state_key``; changed in place.
        changes: from the configuration of the checkpoint to the one that is run.
    """
    names = {change.key.rpartition(".")[2] for change in changes if change.key.startswith("trainer.callbacks.")}
    for callback in callbacks:
        state = states.get(callback.state_key)
        # The saved scores of a Checkpoint belong to its saved monitor.
        if isinstance(state, dict) and not isinstance(callback, Checkpoint):
            state.update({name: getattr(callback, name) for name in names & state.keys() if hasattr(callback, name)})


def refuse_lost_schedule(trainer: Trainer, saved: int) -> None:
    """Refuse a schedule that would restart in the middle of training.

    Args:
        trainer: the trainer, with what it has restored.
        saved: states of schedules in the checkpoint.

    Raises:
        UserError: the checkpoint has fewer than the training has schedules.
    """
    if saved < len(trainer.lr_scheduler_configs):
        raise UserError(
            "The checkpoint was trained without a schedule, so there is no state to continue this one from.",
            remedy="leave --model.scheduler and --model.warmup_epochs as the run was started (its config.yaml), or "
            "leave --ckpt_path out to start a new run",
        )


def describe_changes(changes: Sequence[Change]) -> str | None:
    """Describe the settings that changed with a continuation; None if none did."""
    changed = [str(change) for change in changes if change.key != _ROOT]
    return f"Settings that have changed, in force from here on: {shorten(changed, 6)}." if changed else None


def describe_nothing_left(trainer: Trainer, changes: Sequence[Change]) -> str:
    """Describe a continuation with nothing left to train, and its settings without effect."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    limits = f"trainer.max_epochs is {trainer.max_epochs}" + (
        f", trainer.max_steps is {trainer.max_steps}" if trainer.max_steps >= 0 else ""
    )
    without_effect = ("model.", "data.", "seed_everything")
    changed = shorten([str(change) for change in changes if change.key.startswith(without_effect)], 6)
    return (
        f"Nothing was left to train: {progress.processed} epochs and {trainer.global_step} steps are done, {limits}."
        + (f" What has changed was not trained with: {changed}." if changed else "")
    )
