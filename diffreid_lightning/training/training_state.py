"""Check the training state of a checkpoint as it is restored, and mend what Lightning would get wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage.json_notes import mismatch

_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
_SCHEMA = {
    "optimizer_states": [{"state": {str: dict}, "param_groups": [dict]}],
    "lr_schedulers": [dict],
    "loops": dict.fromkeys(_LOOPS, dict),
}
#: Entries of an optimizer's state that have the shape of their parameter, whatever the optimizer.
_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
#: what an optimizer's eps is raised to: below it, the squares of float16 gradients vanish before the gradients do
_HALF_EPS = 1e-3


class TrainingStateCheck(Callback):
    """Check what a training goes on from, before Lightning and torch take it over value by value."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the states of optimizers, schedules and loops.

        Raises:
            UserError: one of them is missing, or is not what this version of Lightning writes.
        """
        wrong = mismatch(checkpoint, _SCHEMA) if trainer.state.fn == TrainerFn.FITTING else None
        if wrong is None and "loops" in checkpoint:
            loops = {name: getattr(trainer, name).state_dict() for name in _LOOPS}
            wrong = mismatch(checkpoint["loops"], _schema_of(loops), "loops")
        if wrong is not None:
            raise _unusable(f"{', '.join(_SCHEMA)}, as a training leaves them", wrong)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizers' states against their parameters and options.

        An ``eps`` that is 0 in the type of the weights is raised: a weight without a gradient would become NaN.

        Raises:
            UserError: a state is of another shape than its parameter, or lacks options of the optimizer, or a
                learning rate is not finite.
        """
        _begin_the_next_epoch(trainer)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    wrong = _find_mismatch(parameter, optimizer.state.get(parameter, {}))
                    if wrong is not None:
                        raise _unusable(f"the state of {type(optimizer).__name__} for this network", wrong)
        _refuse_another_optimizer(trainer)
        _refuse_infinite_rates(trainer)
        _raise_eps(trainer)


def _begin_the_next_epoch(trainer: Trainer) -> None:
    """Continue after a finished epoch: with max_steps, Lightning would skip the next one."""
    if trainer.max_steps >= 0 and trainer.fit_loop.restarted_on_epoch_end:
        loop = trainer.fit_loop
        loop.epoch_progress.increment_completed()
        loop._restarting = False  # its setter refuses, where max_steps is given
        loop.epoch_loop.restarting = False
        loop.reset_restart_stage()


def _refuse_another_optimizer(trainer: Trainer) -> None:
    """Refuse another optimizer's checkpoint: torch takes its options over, and fails at the first step."""
    for optimizer in trainer.optimizers:
        # torch gives "differentiable" to the defaults of every optimizer that loads a state, and to no group.
        options = set(getattr(optimizer, "defaults", {})) - {"differentiable"}
        lacking = sorted({name for group in optimizer.param_groups for name in options - set(group)})
        if lacking:
            raise UserError(
                "The checkpoint belongs to another optimizer.",
                looked_for=f"the options of {type(optimizer).__name__}",
                found=f"none of {', '.join(lacking)}",
                remedy="give --model.optimizer as the run was started (its config.yaml), or start from its "
                "backbone: --model.init_from RUN/backbone",
            )


def _raise_eps(trainer: Trainer) -> None:
    """Raise an ``eps`` that is 0 in the type of the weights: a weight without a gradient would become NaN."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            types = {parameter.dtype for parameter in group["params"] if parameter.dtype.is_floating_point}
            eps = group.get("eps")
            if eps and any(float(torch.tensor(eps, dtype=kind)) == 0 for kind in types):
                group["eps"] = _HALF_EPS
                rank_zero_warn(
                    f"An eps of {eps:g} is 0 in trainer.precision {trainer.precision}: {_HALF_EPS:g} is used. "
                    "Give --model.optimizer.eps, or use --trainer.precision 16-mixed."
                )


def _schema_of(value: Any) -> Any:
    """Return the form of a sound value, as ``mismatch`` takes it."""
    if isinstance(value, dict):
        return {name: _schema_of(inner) for name, inner in value.items()} or dict
    return type(value) if isinstance(value, (bool, int, list)) else object


def _find_mismatch(parameter: Tensor, state: dict[str, Any]) -> str | None:
    for name, value in state.items():
        if name in _LIKE_PARAMETERS and value is not None:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if found != tuple(parameter.shape):
                return f"{name} of shape {found} for a parameter of shape {tuple(parameter.shape)}"
        elif name == "step" and not _is_one_number(value):
            return f"step {str(value)[:40]}"
    return None


def _is_one_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_infinite_rates(trainer: Trainer) -> None:
    """Refuse learning rates that are no numbers: optimizers take infinity, and the first step spoils every weight."""
    for optimizer in trainer.optimizers:
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        wrong = [rate for rate in rates if not math.isfinite(rate)]
        if wrong:
            raise UserError(
                f"The learning rate of {type(optimizer).__name__} is {wrong[0]}.",
                looked_for="a finite number",
                remedy="correct --model.optimizer.lr (3.5e-4, for instance), or the schedule that has changed it",
            )


def _unusable(looked_for: str, found: str) -> UserError:
    return UserError(
        "Training cannot continue from this checkpoint.",
        looked_for=looked_for,
        found=found,
        remedy="name another checkpoint (--ckpt_path); or begin anew from its run's weights: "
        "--model.init_from RUN/backbone",
    )
