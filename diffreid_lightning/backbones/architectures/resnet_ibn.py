"""ResNets with instance and batch normalization side by side, IBN-a (Pan et al., ECCV 2018, arXiv 1807.09441)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn


class InstanceBatchNorm(nn.Module):
    """Normalize the first half of the channels image by image, the second half over the batch.

    The names of its two layers are those of the authors' weights.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = channels // 2
        self.sizes = (first, channels - first)
        # One group per channel is instance normalization, and leaves the map in channels-last order.
        self.IN = nn.GroupNorm(first, first)
        self.BN = nn.BatchNorm2d(channels - first)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize (B, C, H, W) maps."""
        by_image, by_batch = maps.split(self.sizes, dim=1)
        return torch.cat([self.IN(by_image), self.BN(by_batch)], dim=1)


class IBNResNet(ResNet):
    """A ResNet whose blocks begin with :class:`InstanceBatchNorm`, those of the last stage excepted.

    Args:
        args: see timm's ``ResNet``.
        kwargs: see timm's ``ResNet``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mix_norms(self)


def mix_norms(model: ResNet) -> None:
    """Replace the first normalization of each block of the first three stages."""
    for stage in (model.layer1, model.layer2, model.layer3):
        for block in stage:
            block.bn1 = InstanceBatchNorm(block.bn1.num_features)


DEPTHS: Mapping[str, tuple[int, ...]] = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
_RELEASE = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
_CFG: dict[str, Any] = {
    "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875, "interpolation": "bilinear",
    "num_classes": 1000, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "first_conv": "conv1",
    "classifier": "fc",
}  # fmt: skip
BASES = {f"{name}_ibn_a": f"{name}_ibn_a" for name in DEPTHS}
default_cfgs = generate_default_cfgs(
    {
        "resnet50_ibn_a": {**_CFG, "url": f"{_RELEASE}resnet50_ibn_a-d9d0bb7b.pth"},
        "resnet101_ibn_a": {**_CFG, "url": f"{_RELEASE}resnet101_ibn_a-59ea0ac6.pth"},
        "resnet152_ibn_a": _CFG,
    }
)


def _create(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> IBNResNet:
    depth = DEPTHS[name.removesuffix("_ibn_a")]
    return build_model_with_cfg(IBNResNet, name, pretrained, **{"block": Bottleneck, "layers": depth, **arguments})


def register(name: str, create: Callable[[str, bool, Mapping[str, Any]], nn.Module]) -> None:
    """Make an architecture known to timm, which reads the name and the module of the function that builds it.

    Args:
        name: the architecture's.
        create: builds it of its name, whether it is pre-trained, and other arguments; a function of its module.
    """

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(name, pretrained, kwargs)

    build.__name__, build.__module__ = name, create.__module__
    register_model(build)


for _name in BASES:
    register(_name, _create)
