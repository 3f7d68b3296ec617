"""Training of the network that the embedded captioner reads crops with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from diffreid_lightning.captioning.attribute_network import AttributeNetwork, Values, split_logits
from diffreid_lightning.diffusion.lr_schedule import Schedule, optimize_by_step
from diffreid_lightning.errors import check_range
from diffreid_lightning.training.trainer_parts import datamodule_of
from tools.reader.datamodule import DescribedImages
from tools.reader.labels import UNKNOWN


def attribute_loss(logits: Tensor, targets: Tensor, values: Values, smoothing: float = 0.05) -> Tensor:
    """Sum of the attributes' label-smoothed cross-entropies.

    Args:
        logits: (B, V).
        targets: (B, A) int64; -100 where an attribute of an image is not known.
        values: the A attributes and their words, V in all.
        smoothing: probability mass spread over all words, 0 to 1.

    Returns:
        The scalar loss, each attribute averaged over the images that have it.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for scores, wanted in zip(split_logits(logits.float(), values), targets.T, strict=True):
        known = (wanted != UNKNOWN).sum().clamp(min=1)
        summed = F.cross_entropy(scores, wanted, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="sum")
        total = total + summed / known
    return total


class ReaderTraining(LightningModule):
    """Train an :class:`~diffreid_lightning.captioning.attribute_network.AttributeNetwork` on rendered people.

    What it reads are the words of the training rows.

    Args:
        channels: of the network's stem and three stages.
        dropout: of its last map, 0 to 1.
        smoothing: label smoothing of every attribute, 0 to 1.
        optimizer: builds the optimizer from the parameters.
        schedule: learning-rate schedule after the warm-up.
        warmup_steps: steps of linear warm-up.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int] = (32, 64, 128, 192),
        dropout: float = 0.3,
        smoothing: float = 0.05,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.05),
        schedule: Schedule = "cosine",
        warmup_steps: int = 200,
    ) -> None:
        super().__init__()
        for name, value in (("dropout", dropout), ("smoothing", smoothing)):
            check_range(f"model.{name}", value, 0, 1)
        self.channels, self.dropout, self.smoothing = channels, dropout, smoothing
        self.optimizer, self.schedule, self.warmup_steps = optimizer, schedule, warmup_steps

    def configure_model(self) -> None:
        """Build the network for the words of the training rows."""
        if hasattr(self, "network"):
            return
        self.network = AttributeNetwork(datamodule_of(self.trainer).values, self.channels, self.dropout)
        self.right = nn.ModuleDict({name: MeanMetric() for name in self.network.values})

    def configure_optimizers(self) -> Any:
        """Decay matrices and kernels; biases and normalizations have none."""
        trained = list(self.network.parameters())
        groups: list[nn.Parameter | dict[str, Any]] = [
            {"params": [each for each in trained if each.ndim > 1]},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ]
        return optimize_by_step(self, groups, self.optimizer, self.schedule, self.warmup_steps)

    def training_step(self, batch: DescribedImages, batch_idx: int) -> Tensor:
        """Sum the attributes' losses."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        loss = attribute_loss(self.network(images), batch.targets, self.network.values, self.smoothing)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: DescribedImages, batch_idx: int) -> None:
        """Count what is read right, where it can be seen."""
        scores = split_logits(self.network(batch.images), self.network.values)
        for name, logits, wanted in zip(self.network.values, scores, batch.targets.T, strict=True):
            known = wanted != UNKNOWN
            metric = self.right[name]
            assert isinstance(metric, MeanMetric)
            if known.any():
                metric.update((logits.argmax(1) == wanted)[known].float())

    def on_validation_epoch_end(self) -> None:
        """Log the share of right words by attribute, and its mean."""
        shares = []
        for name, metric in self.right.items():
            assert isinstance(metric, MeanMetric)
            if metric.update_called:
                shares.append(metric.compute())
                self.log(f"val/{name}", shares[-1])
            metric.reset()
        if shares:
            self.log("val/right", torch.stack(shares).mean(), prog_bar=True)


class ReaderExport(Callback):
    """Save the network as ``reader/`` in the run folder when fit ends."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder that ``ReaderCaptioner`` takes as its model."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir) / "reader"
        measured = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if "val/" in name}
        provenance = {"training_data": datamodule_of(trainer).provenance, "steps": trainer.global_step, **measured}
        network = pl_module.network
        assert isinstance(network, AttributeNetwork)
        network.save(folder, provenance)
        rank_zero_info(f"Attribute reader saved: {folder}")
