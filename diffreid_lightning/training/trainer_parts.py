"""Read parts of a trainer that Lightning does not declare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningDataModule, Trainer

from diffreid_lightning.errors import UserError

AnySampler = TypeVar("AnySampler", bound=Iterable[Any])
_Data = TypeVar("_Data", bound=LightningDataModule)


def datamodule_of(trainer: Trainer) -> Any:
    """Return the trainer's DataModule, of whatever class; None where there is none."""
    return getattr(trainer, "datamodule", None)


def require_datamodule(trainer: Trainer, kind: type[_Data], reader: str, remedy: str | None = None) -> _Data:
    """Return the trainer's DataModule as the class that its reader works on.

    Args:
        trainer: the trainer.
        kind: the class.
        reader: name of the module or callback.
        remedy: what else to do than to choose the class by ``--data``.

    Raises:
        UserError: it is of another class.
    """
    data = datamodule_of(trainer)
    if not isinstance(data, kind):
        raise UserError(
            f"{reader} does not work on {'plain dataloaders' if data is None else type(data).__name__}.",
            looked_for=kind.__name__,
            remedy=remedy or f"use --data {kind.__name__}",
        )
    return data


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks, in their order."""
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return callbacks


def start_at_epoch(sampler: AnySampler, trainer: Trainer | None) -> AnySampler:
    """Set a sampler's epoch to the one that its trainer starts with.

    Lightning creates the first iterator before it calls ``set_epoch``, and keeps it if a run without validation resumes
    at the end of an epoch: that run would see epoch 0 again. A schedule that asks for the number of steps creates the
    loader even before the trainer's progress is restored.
    """
    if trainer is not None and hasattr(sampler, "set_epoch"):
        progress: Any = trainer.fit_loop.epoch_progress.current
        loaded = getattr(getattr(trainer, "_checkpoint_connector", None), "_loaded_checkpoint", None) or {}
        restored = loaded.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
        # trainer.current_epoch is one too low at the end of an epoch
        sampler.set_epoch(max(progress.processed, restored.get("processed", 0)))
    return sampler
