"""A learning-rate schedule that takes its settings from the configuration and its place from the checkpoint."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffreid_lightning.errors import UserError
from diffreid_lightning.training.trainer_parts import callbacks_of

#: how often a schedule is stepped, as in Lightning's ``lr_scheduler`` configuration
Interval = Literal["epoch", "step"]
# Switches that only choose how a step is computed; any other one decides what state the optimizer keeps.
_FREE_SWITCHES = ("foreach", "maximize", "nesterov", "decoupled_weight_decay")
_PLAIN = (bool, int, float, str, type(None))
# The keys by which a state is known as one of a schedule that counts from the beginning of the training.
_COUNTS_FROM_THE_START = {"interval", "unscaled", "lr_lambdas"}
_REMEDY = "give --model.{0} as the run was started (its config.yaml), or leave --ckpt_path out to start a new run"


class ResumableSchedule(LRScheduler):
    """Step a schedule; its state is the number of steps alone, so the configuration decides what rates follow.

    torch restores a schedule's own settings and the optimizer's (rates, weight decay, betas) with its progress, so a
    training that goes on with other ones would go on with the old ones. Here ``load_state_dict`` lets the new schedule
    take as many steps as the old one had taken, which gives the rates that a training begun with it has at this place.
    Options of the optimizer that were configured otherwise when the state was saved get their new values; those that
    were not keep what the optimizer restored, since some optimizers count in them. A schedule that has not changed
    comes to the same numbers bit for bit.

    Args:
        optimizer: the optimizer whose rates are set, one per parameter group.
        scheduler: the schedule, newly built on the same optimizer and stepped by this object only; None for constant
            rates.
        interval: how often Lightning steps it: once an epoch, or once an optimizer step.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LRScheduler | None, interval: Interval = "epoch") -> None:
        self.scheduler = scheduler
        self.interval = interval
        self._first_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._first_state = None if scheduler is None else copy.deepcopy(scheduler.state_dict())
        self._unscaled = list(self._first_rates)
        super().__init__(optimizer)
        self._options = [_plain_options(group) for group in optimizer.param_groups]

    def share(self) -> float:
        """Return the share of the schedule's rates that is trained at, at this place."""
        return 1.0

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch, or the next optimizer step."""
        # The base class's constructor takes the first step, which the wrapped schedule's has already taken.
        if self.last_epoch >= 0:
            self._set_rates(self._unscaled)
            if self.scheduler is not None:
                self.scheduler.step()
        self.last_epoch += 1
        self._unscaled = [float(group["lr"]) for group in self.optimizer.param_groups]
        share = self.share()
        self._last_lr = [rate * share for rate in self._unscaled]
        self._set_rates(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps taken, and what the optimizer was configured with, as plain values."""
        return {
            "last_epoch": self.last_epoch,
            "interval": self.interval,
            "optimizer": type(self.optimizer).__name__,
            "options": copy.deepcopy(self._options),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the place of a saved state; the optimizer has restored its own before.

        Raises:
            UserError: the state is of another optimizer, interval or kind of schedule, or the optimizer's state does
                not fit one of its options.
        """
        self._refuse_another(state_dict)
        for number, (group, given) in enumerate(zip(self.optimizer.param_groups, self._options, strict=True)):
            begun = state_dict["options"][number] if "options" in state_dict else group
            take_options(group, given, begun)
        if self.scheduler is not None and self.last_epoch:
            self.scheduler.load_state_dict(copy.deepcopy(self._first_state))  # type: ignore[arg-type]
        self.last_epoch = 0
        self._unscaled = list(self._first_rates)
        self._last_lr = [rate * self.share() for rate in self._unscaled]
        self._set_rates(self._last_lr)
        with warnings.catch_warnings():  # no optimizer steps lie between these
            warnings.filterwarnings("ignore", message=r".*lr_scheduler\.step.*")
            for _ in range(int(state_dict["last_epoch"])):
                self.step()

    def _refuse_another(self, state: Mapping[str, Any]) -> None:
        if "last_epoch" not in state or not _COUNTS_FROM_THE_START & state.keys():
            raise UserError(
                "The checkpoint was trained with another kind of schedule.", remedy=_REMEDY.format("scheduler")
            )
        optimizer = type(self.optimizer).__name__
        if state.get("optimizer", optimizer) != optimizer:
            raise UserError(
                "The checkpoint belongs to another optimizer.",
                looked_for=f"the state of {optimizer}",
                found=f"that of {state['optimizer']}",
                remedy=_REMEDY.format("optimizer"),
            )
        if state.get("interval", self.interval) != self.interval:
            raise UserError(
                f"The checkpoint's schedule was stepped once per {state['interval']}.",
                looked_for=f"one that is stepped once per {self.interval}, as --model.scheduler_interval asks for",
                remedy=_REMEDY.format("scheduler_interval"),
            )

    def _set_rates(self, rates: Iterable[float | Tensor]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                # A captured optimizer step reads the tensor it was captured with.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def refuse_later_groups(trainer: Trainer | None) -> None:
    """Refuse callbacks that give the optimizer parameters while it trains, whose rates no schedule here knows.

    Raises:
        UserError: there is one of Lightning's ``BaseFinetuning``.
    """
    for callback in () if trainer is None else callbacks_of(trainer):
        if isinstance(callback, BaseFinetuning):
            name = type(callback).__name__
            raise UserError(
                f"{name} adds parameters to the optimizer while it trains, which no schedule here knows of.",
                looked_for="callbacks that leave the optimizer's parameters as they are",
                remedy=f"drop {name} from trainer.callbacks; for a Re-ID network, FreezeBackbone keeps its pre-trained "
                "layers as they are in the first epochs",
            )


def take_options(group: dict[str, Any], given: Mapping[str, Any], begun: Mapping[str, Any]) -> None:
    """Give a restored parameter group the options that have been configured otherwise since.

    Args:
        group: the group, with the options that the checkpoint restored; changed in place.
        given: the options that it is configured with now.
        begun: those that it was configured with when the checkpoint was written.

    Raises:
        UserError: the state of the optimizer follows from an option that has changed.
    """
    for name, value in given.items():
        before = begun.get(name)
        if _same(value, before):
            continue
        is_switch = any(isinstance(each, (bool, str, type(None))) for each in (value, before))
        if (is_switch and name in begun and name not in _FREE_SWITCHES) or (name == "momentum" and not before):
            raise UserError(
                f"The optimizer's state in the checkpoint does not fit {name} {value}.",
                looked_for=f"{name} {before}, as the run was begun",
                found=str(value),
                remedy=_REMEDY.format(f"optimizer.{name}"),
            )
        group[name] = copy.deepcopy(value)


def _plain_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's options that a checkpoint can hold; the rate itself follows from the schedule."""
    plain = {name: value for name, value in group.items() if name not in ("params", "param_names", "lr")}
    return {name: _detached(value) for name, value in plain.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, Tensor)) or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))


def _detached(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else copy.deepcopy(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(other, (Tensor, float)) and isinstance(one, (Tensor, float)) and float(one) == float(other)
    return bool(one == other)
