"""Training a small classifier on pictures in memory; a killed run goes on after its last whole epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import RunError
from diffreid_lightning.storage.checkpoint_io import AtomicCheckpointIO

BatchLoss = Callable[[Tensor, Generator], Tensor]
"""Takes (B,) row numbers and a source of randomness, both on the CPU, returns the scalar loss, where the network is."""


@dataclass(frozen=True)
class Recipe:
    """Training recipe: AdamW, a short linear warm-up, then a cosine down to zero.

    Args:
        epochs: passes over the rows.
        batch_size: rows in a step.
        rate: largest learning rate.
        weight_decay: of matrices and kernels; biases and normalizations have none.
        warm_up: share of the steps.
        seed: of order and augmentation.
    """

    epochs: int
    batch_size: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.08
    seed: int = 0

    def rate_at(self, progress: float) -> float:
        """The learning rate when ``progress``, 0 to 1, of the steps are done."""
        if progress < self.warm_up:
            return self.rate * progress / self.warm_up
        return self.rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up)))


def runs_bfloat16(device: torch.device) -> bool:
    """Return true if the GPU, or else this processor, has instructions for bfloat16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def train_once(
    network: nn.Module,
    file: Path,
    batch_loss: BatchLoss,
    weights: npt.NDArray[np.float64],
    recipe: Recipe,
) -> float:
    """Fill a network from ``file``, or train it and write that file.

    Args:
        network: with its initial weights; trained on the fastest device, left in evaluation mode where it then is.
        file: safetensors; its name should tell data and recipe.
        batch_loss: the loss of some rows.
        weights: (N,) how often each row is drawn, relative to the others. Equal ones: every row once an epoch.
        recipe: how to train.

    Returns:
        Seconds that the training took, in all its parts.

    Raises:
        RunError: the loss is no longer finite.
    """
    if file.exists():
        network.load_state_dict(load_file(file))
        network.eval()
        with safe_open(file, "pt") as opened:
            return float(opened.metadata()["seconds"])
    file.parent.mkdir(parents=True, exist_ok=True)
    state_file = file.with_suffix(".state")
    seconds = _train(network, state_file, batch_loss, weights, recipe)
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    temporary = file.with_suffix(".part")
    save_file(tensors, temporary, metadata={"format": "pt", "seconds": f"{seconds:.1f}"})
    temporary.replace(file)
    state_file.unlink(missing_ok=True)
    network.eval()
    return seconds


def _train(
    network: nn.Module, state_file: Path, batch_loss: BatchLoss, weights: npt.NDArray[np.float64], recipe: Recipe
) -> float:
    network.to(fastest_device())
    optimizer = _optimizer(network, recipe)
    begun, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        begun, seconds = state["epochs"], state["seconds"]
    for epoch in range(begun, recipe.epochs):
        started = time.perf_counter()
        network.train()
        mean = _train_epoch(network, optimizer, batch_loss, weights, recipe, epoch)
        seconds += time.perf_counter() - started
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        AtomicCheckpointIO().save_checkpoint({**state, "epochs": epoch + 1, "seconds": seconds}, state_file)
        left = seconds / (epoch + 1) * (recipe.epochs - epoch - 1) / 60
        print(f"  epoch {epoch + 1} of {recipe.epochs}: loss {mean:.3f}, {left:.1f} minutes left", flush=True)
    return seconds


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_loss: BatchLoss,
    weights: npt.NDArray[np.float64],
    recipe: Recipe,
    epoch: int,
) -> float:
    # Everything drawn in an epoch comes from its number, so that a run that goes on is the run that was cut off.
    device = fastest_device()
    rng = np.random.default_rng([recipe.seed, epoch])
    rows = draw_epoch(weights, recipe.batch_size, rng)
    generator = Generator().manual_seed(int(rng.integers(2**62)))
    total = torch.zeros((), device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        for step, batch in enumerate(torch.from_numpy(rows)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at((epoch + step / len(rows)) / recipe.epochs)
            with torch.autocast(device.type, torch.bfloat16, enabled=runs_bfloat16(device)):
                loss = batch_loss(batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
    if not math.isfinite(total):
        raise RunError(
            "The training loss is no longer finite.", found=f"{float(total)} in epoch {epoch}", remedy="start again"
        )
    return float(total) / len(rows)


def draw_epoch(weights: npt.NDArray[np.float64], batch_size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the batches of an epoch.

    Args:
        weights: (N,) how often each row is drawn, relative to the others. Each comes up as often as is due to it,
            rounded down or up at random: equal weights draw every row once.
        batch_size: B; at most N of it is used.
        rng: source of the draws.

    Returns:
        (N // B, B) row numbers.
    """
    count = len(weights)
    due = weights / weights.sum() * count
    # One random offset for all (systematic sampling): N draws exactly, none further than one from what is due.
    ends = np.floor(np.cumsum(due) + rng.random()).astype(np.int64)
    rows = rng.permutation(np.repeat(np.arange(count), np.diff(ends, prepend=0)))
    size = min(batch_size, len(rows))
    return rows[: len(rows) // size * size].reshape(-1, size)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learnt if parameter.ndim > 1]
    plain = [parameter for parameter in learnt if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate)
