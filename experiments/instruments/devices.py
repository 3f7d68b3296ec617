"""The device that work runs on: its name for what is kept, and clocks that count all it was given."""

from __future__ import annotations

import torch

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import UserError


def device_name() -> str:
    """Name what the fastest device is, for times that are kept: a GPU's model, or ``CPU``."""
    return torch.cuda.get_device_name() if fastest_device().type == "cuda" else "CPU"


def elsewhere() -> list[str]:
    """Return what cache keys of images and times must hold about the device: nothing on a CPU, the name of a GPU."""
    return [] if device_name() == "CPU" else [device_name()]


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock counts it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def require_gpu(remedy: str) -> None:
    """Raise UserError where there is no GPU to measure.

    Args:
        remedy: what to do then.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "There is no GPU here, so nothing is measured.",
            looked_for="a CUDA device",
            found="none that torch can use",
            remedy=remedy,
        )
