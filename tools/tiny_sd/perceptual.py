"""Distance of two images in the early features of an ImageNet network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone, load_initial_weights
from diffreid_lightning.errors import check_range


class PerceptualDistance(nn.Module):
    """Squared distance of normalized features (after Johnson et al., arXiv 1603.08155; Zhang et al., 1801.03924).

    Features are scaled to unit length per position, so that every depth counts alike.

    Args:
        backbone: a timm model whose ``blocks`` can be run one by one (EfficientNet, MobileNet).
        init_from: its weights, as for :func:`~diffreid_lightning.backbones.load_initial_weights`.
        blocks: how many blocks are run.
        image_size: height and width in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        init_from: str | None = "efficientnet-lite0",
        blocks: int = 3,
        image_size: tuple[int, int] = (128, 64),
    ) -> None:
        super().__init__()
        check_range("PerceptualDistance.blocks", blocks, 1, 100)
        network = Backbone(backbone, image_size=image_size, pooling="avg", last_stride=2)
        load_initial_weights(network, init_from)
        self.register_buffer("mean", torch.tensor(network.normalization[0]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(network.normalization[1]).view(1, 3, 1, 1), persistent=False)
        model = network.model
        self.stem = nn.Sequential(model.conv_stem, model.bn1)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(list(model.blocks)[:blocks])  # type: ignore[arg-type]
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode: a measure does not change with the batch."""
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of the stem and of each block.

        Args:
            images: (B, 3, H, W) in 0..1.

        Returns:
            (B, C, h, w) each, unit length over C.
        """
        value = self.stem((images - self.mean) / self.std)
        maps = [value]
        for block in self.blocks:
            value = block(value)
            maps.append(value)
        return [nn.functional.normalize(each.float(), dim=1) for each in maps]

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance of image pairs.

        Args:
            images: (B, 3, H, W) in 0..1; gradients flow to them.
            others: (B, 3, H, W) in 0..1; taken as they are.

        Returns:
            A scalar: squared distances, averaged over positions, summed over depths.
        """
        with torch.no_grad():
            targets = self.features(others)
        pairs = zip(self.features(images), targets, strict=True)
        return torch.stack([(ours - theirs).square().sum(dim=1).mean() for ours, theirs in pairs]).sum()
