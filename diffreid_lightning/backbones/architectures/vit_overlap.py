"""Build ViTs with overlapping patches (TransReID: He et al., ICCV 2021, arXiv 2102.04378, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    vision_transformer,
)
from torch import Tensor

from diffreid_lightning.backbones.architectures.resnet_ibn import register

BASES = {
    "vit_small_patch16_stride12_224": "vit_small_patch16_224",
    "vit_base_patch16_stride12_224": "vit_base_patch16_224",
}
# The base one starts from the weights that TransReID does.
default_cfgs = generate_default_cfgs(
    {
        "vit_small_patch16_stride12_224.augreg_in21k_ft_in1k": get_pretrained_cfg(
            "vit_small_patch16_224.augreg_in21k_ft_in1k"
        ),
        "vit_base_patch16_stride12_224.orig_in21k_ft_in1k": get_pretrained_cfg(
            "vit_base_patch16_224.orig_in21k_ft_in1k"
        ),
    }
)


class OverlappingPatchEmbed(PatchEmbed):
    """Embed patches with stride 12; uncovered pixels at the right and bottom edge are ignored.

    Args:
        args: see timm's ``PatchEmbed``.
        kwargs: see timm's ``PatchEmbed``.
    """

    stride: ClassVar[int] = 12

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.proj.stride = (self.stride, self.stride)

    def _init_img_size(self, img_size: int | tuple[int, int] | None) -> tuple[Any, Any, Any]:
        size, grid, _ = super()._init_img_size(img_size)
        grid = grid and self.dynamic_feat_size(size)
        return size, grid, grid and math.prod(grid)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the pixels from one patch to the next."""
        return self.stride if as_scalar else (self.stride, self.stride)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of (height, width) pixels."""
        rows, columns = (
            (side - patch) // self.stride + 1 for side, patch in zip(img_size, self.patch_size, strict=True)
        )
        return rows, columns


class OverlappingViT(vision_transformer.VisionTransformer):
    """Subclass timm's ViT so that timm finds :func:`checkpoint_filter_fn` in this module."""


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: OverlappingViT) -> dict[str, Tensor]:
    """Resample positional embeddings of overlapping patches, or of timm's side by side; called by timm."""
    tensors = dict(state_dict)
    positions, size = tensors.get("pos_embed"), model.pretrained_cfg["input_size"][-2:]
    grid = model.patch_embed.dynamic_feat_size(size)
    if positions is not None and positions.shape[1] == math.prod(grid) + model.num_prefix_tokens:
        tensors["pos_embed"] = resample_abs_pos_embed(
            positions, new_size=model.patch_embed.grid_size, old_size=grid, num_prefix_tokens=model.num_prefix_tokens
        )
    return vision_transformer.checkpoint_filter_fn(tensors, model)


_WIDTHS = {"vit_small_patch16_stride12_224": (384, 6), "vit_base_patch16_stride12_224": (768, 12)}  # and heads


def _create(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> OverlappingViT:
    width, heads = _WIDTHS[name]
    form = {"patch_size": 16, "depth": 12, "embed_dim": width, "num_heads": heads, "embed_layer": OverlappingPatchEmbed}
    return build_model_with_cfg(
        OverlappingViT, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**form, **arguments}
    )


for _name in _WIDTHS:
    register(_name, _create)
