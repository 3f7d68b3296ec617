"""ResNet with non-local blocks (Wang et al., CVPR 2018), as AGW has them (Ye et al., TPAMI 2022, arXiv 2001.04193)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

BASES = {"resnet50_nl": "resnet50"}
default_cfgs = generate_default_cfgs({"resnet50_nl.tv_in1k": get_pretrained_cfg("resnet50.tv_in1k")})


class NonLocal(nn.Module):
    """Add to each position of a map a mean over all positions, weighted by inner products (equations 1, 4 and 6).

    The last normalization starts at 0, so that a new block is the identity. The names of the layers are those of AGW's
    weights.

    Args:
        channels: channels of the map.
        inner_channels: channels in which positions are compared. The authors of AGW write of half of ``channels``; the
            code that their figures and fast-reid's weights come from has 1.
    """

    def __init__(self, channels: int, inner_channels: int = 1) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner_channels, 1) for _ in range(3))
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(inner_channels, channels, 1), norm)

    def forward(self, maps: Tensor) -> Tensor:
        """Attend within (B, C, H, W) maps."""
        queries, keys, values = (layer(maps).flatten(2) for layer in (self.theta, self.phi, self.g))
        # (θᵀφ) g = θᵀ (φ g): without a softmax between them the matrix of all pairs of positions is not needed.
        mixed = torch.einsum("bkn,bcn->bkc", keys, values / keys.shape[2])
        attended = torch.einsum("bkn,bkc->bcn", queries, mixed)
        return maps + self.W(attended.unflatten(2, maps.shape[2:]))


class NonLocalResNet(ResNet):
    """A ResNet with a non-local block behind each of the last two blocks of stage 2 and the last three of stage 3.

    Args:
        args: see timm's ``ResNet``.
        kwargs: see timm's ``ResNet``.
    """

    new_layers: ClassVar[tuple[str, ...]] = ("NL_2.", "NL_3.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = [stage["num_chs"] for stage in self.feature_info]
        self.NL_2 = nn.ModuleList(NonLocal(channels[2]) for _ in range(2))
        self.NL_3 = nn.ModuleList(NonLocal(channels[3]) for _ in range(3))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map of (B, 3, H, W) images."""
        maps = self.layer1(self.maxpool(self.act1(self.bn1(self.conv1(images)))))
        maps = _attend(self.layer2, self.NL_2, maps)
        maps = _attend(self.layer3, self.NL_3, maps)
        return self.layer4(maps)


def _attend(stage: nn.Sequential, attention: nn.ModuleList, maps: Tensor) -> Tensor:
    """Run a stage, with one non-local block behind each of its last blocks."""
    first = len(stage) - len(attention)
    for number, block in enumerate(stage):
        maps = block(maps)
        if number >= first:
            maps = attention[number - first](maps)
    return maps


@register_model
def resnet50_nl(pretrained: bool = False, **kwargs: Any) -> NonLocalResNet:
    """Build ResNet-50 with the non-local blocks of AGW."""
    arguments = {"block": Bottleneck, "layers": (3, 4, 6, 3), **kwargs}
    return build_model_with_cfg(NonLocalResNet, "resnet50_nl", pretrained, **arguments)
