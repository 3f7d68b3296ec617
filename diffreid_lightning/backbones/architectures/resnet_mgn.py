"""Multiple Granularities Network (Wang et al., ACM MM 2018, arXiv 1804.01438) on ResNets, as fast-reid trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from diffreid_lightning.backbones.architectures.resnet_ibn import DEPTHS, mix_norms, register
from diffreid_lightning.backbones.pooling import GeM

BASES = {f"{name}_mgn": name for name in ("resnet50", "resnet101", "resnet152", "resnet50_ibn_a", "resnet101_ibn_a")}
_WEIGHTS = {"resnet50": "resnet50.tv_in1k", "resnet101": "resnet101.tv_in1k", "resnet152": "resnet152.tv_in1k"}
default_cfgs = generate_default_cfgs(
    {
        f"{name}.tv_in1k" if base in _WEIGHTS else name: get_pretrained_cfg(_WEIGHTS.get(base, base))
        for name, base in BASES.items()
    }
)


class Branch(nn.Module):
    """The last two stages of a ResNet, without the first block of the third, and without the last downsampling.

    Args:
        model: the network that they are copied from.
    """

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.layer3 = copy.deepcopy(model.layer3[1:])
        self.layer4 = copy.deepcopy(model.layer4)
        for layer in self.layer4.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the last map, of the resolution of ``maps``."""
        return self.layer4(self.layer3(maps))


class PartHead(nn.Module):
    """Pool a map, or a stripe of it, and reduce its dimension; the batch norm behind the reduction is the neck's.

    Args:
        channels: channels of the map.
        dimension: dimension of the result.
    """

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        self.pool = GeM()
        self.reduction = nn.Linear(channels, dimension, bias=False)
        nn.init.kaiming_normal_(self.reduction.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, ``dimension``) of (B, C, H, W) maps."""
        return self.reduction(self.pool(maps))


class MultiGranularityResNet(ResNet):
    """A ResNet with three branches behind the first block of stage 3: one global, one in halves, one in thirds.

    The first branch is the ResNet's own and keeps its last stride; the others are copies of it with stride 1. A feature
    consists of eight parts: the whole of each branch, two halves, three thirds, in the order of the branches.

    Args:
        args: see timm's ``ResNet``.
        dimension: dimension of each part.
        ibn: use instance and batch normalization side by side, as in :mod:`.resnet_ibn`.
        kwargs: see timm's ``ResNet``.
    """

    new_layers: ClassVar[tuple[str, ...]] = ("part_heads.",)
    stripes: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __init__(self, *args: Any, dimension: int = 256, ibn: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if ibn:
            mix_norms(self)
        self.branch2, self.branch3 = Branch(self), Branch(self)
        #: dimensions of what is classified by itself, and of what is compared as one: a whole, or all stripes of a map
        self.part_sizes = (dimension,) * 8
        self.group_sizes = (dimension, dimension, 2 * dimension, dimension, 3 * dimension)
        self.part_heads = nn.ModuleList(PartHead(self.num_features, dimension) for _ in self.part_sizes)

    def forward_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the last maps of the three branches.

        Raises:
            ValueError: the images are too small to be cut into thirds.
        """
        maps = self.layer2(self.layer1(self.maxpool(self.act1(self.bn1(self.conv1(images))))))
        maps = self.layer3[0](maps)
        if maps.shape[2] < max(self.stripes):
            raise ValueError(f"a map of {maps.shape[2]} rows cannot be cut into {max(self.stripes)} stripes")
        own = maps
        for block in list(self.layer3)[1:]:
            own = block(own)
        return self.layer4(own), self.branch2(maps), self.branch3(maps)

    def forward_head(self, features: tuple[Tensor, ...], pre_logits: bool = False) -> Tensor:
        """Return the parts side by side, (B, 8 × ``dimension``)."""
        pieces = []
        for maps, stripes in zip(features, self.stripes, strict=True):
            pieces += [maps] if stripes == 1 else [maps, *maps.tensor_split(stripes, dim=2)]
        return torch.cat([head(piece) for head, piece in zip(self.part_heads, pieces, strict=True)], dim=1)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Copy the last stages of a ResNet into the branches, where the weights are those of a ResNet; called by timm."""
    tensors = dict(state_dict)
    if not any(name.startswith("branch2.") for name in tensors):
        for name in [name for name in tensors if name.startswith(("layer3.", "layer4."))]:
            if not name.startswith("layer3.0."):
                tensors |= {f"branch2.{name}": tensors[name], f"branch3.{name}": tensors[name]}
    return tensors


def _create(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> MultiGranularityResNet:
    base = BASES[name].removesuffix("_ibn_a")
    defaults = {"block": Bottleneck, "layers": DEPTHS[base], "ibn": base != BASES[name]}
    return build_model_with_cfg(
        MultiGranularityResNet, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**defaults, **arguments}
    )


for _name in BASES:
    register(_name, _create)
