"""Measure images per second and peak memory of a training."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

GIB = 1 << 30


class Throughput:
    """Counts training images from the end of the first batch on, which compiles and fills caches."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._images = 0

    def count(self, images: int) -> None:
        """Count the images of a batch that has been trained."""
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._images += images

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Return ``fit/images_per_second`` of all processes and ``fit/peak_memory_gib`` of this one.

        Validations within fit count as its time. Memory is the GPU's that torch has allocated, or this process's.
        """
        found = {}
        if self._began is not None and self._images:
            found["fit/images_per_second"] = self._images * trainer.world_size / (time.monotonic() - self._began)
        memory = peak_memory(trainer.strategy.root_device)
        return found if memory is None else {**found, "fit/peak_memory_gib": memory / GIB}


def peak_memory(device: torch.device) -> int | None:
    """Return the bytes that torch has allocated on a GPU at most, or this process in all; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not under Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def batch_size(batch: Any) -> int:
    """Return the length of the first tensor of a batch (a tensor, tuple or mapping), 0 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((size for size in map(batch_size, parts) if size), 0)
