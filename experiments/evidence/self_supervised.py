"""Momentum contrast (He et al., arXiv 1911.05722; v2: Chen et al., 2003.04297) by the PyPI package lightly.

What Re-ID pre-training without labels does (LUPerson: Fu et al., arXiv 2012.03753). The networks' halves, the loss and
its memory are lightly's; data, optimizer, schedule and export are those of the supervised rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from PIL import Image
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone
from diffreid_lightning.datasets.samplers import ShuffledRows
from diffreid_lightning.datasets.transforms import TrainView
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.person_images import PersonBatch


class UnlabeledSampler(ShuffledRows):
    """Every row once an epoch, whoever it shows.

    Args:
        labels: (N,) only their number is read.
        batch_size: draws in a batch.
        seed: with the epoch, the seed of everything drawn.
    """

    def __init__(self, labels: Sequence[int], batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(len(labels), batch_size, seed)
        self.batch_size = batch_size


class TwoViews(TrainView):
    """Two training views of an image, (2, 3, H, W)."""

    def __call__(self, image: Image.Image, size: tuple[int, int], seed: int) -> Tensor:
        """Draw both from one seed."""
        return torch.stack([super(TwoViews, self).__call__(image, size, 2 * seed + view) for view in range(2)])


class MomentumContrast(LightningModule):
    """A backbone learns to find an image's other view among images seen lately.

    Args:
        backbone: name of any timm model.
        image_size: height and width in pixels; the command line links it to the data's.
        temperature: of the contrast.
        momentum: share that the slow network keeps of itself at each step, 0 to 1.
        memory: how many images seen lately are remembered.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the schedule from the optimizer; None keeps the rate.

    Raises:
        UserError: lightly is not installed.
    """

    def __init__(
        self,
        backbone: str,
        image_size: tuple[int, int] = (256, 128),
        temperature: float = 0.1,
        momentum: float = 0.99,
        memory: int = 1024,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1.5e-3, weight_decay=5e-4),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        try:
            from lightly.loss import NTXentLoss
            from lightly.models.modules.heads import MoCoProjectionHead
        except ImportError as error:
            raise UserError(
                "Momentum contrast needs the package lightly.",
                found=str(error),
                remedy="pip install 'diffreid_lightning[experiments]'",
            ) from error
        self.backbone = Backbone(backbone, image_size=image_size)
        width = self.backbone.num_features
        self.head = MoCoProjectionHead(width, width, 64)
        self.slow = nn.ModuleList([copy.deepcopy(self.backbone), copy.deepcopy(self.head)]).requires_grad_(False)
        self.loss = NTXentLoss(temperature, memory_bank_size=(memory, 64))
        self.momentum = momentum
        self.optimizer = optimizer
        self.scheduler = scheduler

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule."""
        optimizer = self.optimizer([*self.backbone.parameters(), *self.head.parameters()])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def training_step(self, batch: PersonBatch, batch_idx: int) -> Tensor:
        """Contrast the two views of each image, (B, 2, 3, H, W); labels are not read."""
        from lightly.models.utils import update_momentum

        for fast, slow in zip((self.backbone, self.head), self.slow, strict=True):
            update_momentum(fast, slow, m=self.momentum)
        first, second = batch.images.unbind(dim=1)
        with torch.no_grad():
            keys = self.slow[1](self.slow[0](second))
        loss: Tensor = self.loss(self.head(self.backbone(first)), keys)
        self.log("train/loss", loss.detach(), batch_size=len(first))
        return loss
