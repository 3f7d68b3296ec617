"""Choose the device for work outside a trainer."""

from __future__ import annotations

import torch


def fastest_device() -> torch.device:
    """Return the current GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
