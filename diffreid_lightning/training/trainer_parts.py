"""Read parts of a trainer that Lightning does not declare."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer


def datamodule_of(trainer: Trainer) -> Any:
    """Return the trainer's DataModule, of whatever class; None where there is none."""
    return getattr(trainer, "datamodule", None)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks, in their order."""
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return callbacks
