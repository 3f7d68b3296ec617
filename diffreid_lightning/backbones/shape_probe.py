"""Probe a network with a blank image for the layout of its feature map and the parameters it uses.

Blank images draw no random numbers, so probing does not shift anyone's seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from diffreid_lightning.backbones.timm_model import TimmModel

Layout: TypeAlias = Literal["NCHW", "NHWC", "NLC", "other"]

# What layers raise when a map has another size than they were written for.
DOES_NOT_FIT = (AssertionError, IndexError, RuntimeError, ValueError)

_ONEDNN_BLOCK = 16  # channels


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, then give every part its own mode back (some parts may be frozen in eval mode)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def layout_of(model: TimmModel, features: object) -> Layout:
    """Name the layout of what a timm model's ``forward_features`` returned; ``other`` for several maps at once."""
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        return "other"
    if features.ndim == 3:
        return "NLC"
    if features.shape[1] == model.num_features:
        return "NCHW"
    return "NHWC" if features.shape[3] == model.num_features else "other"


def map_size(model: TimmModel, features: object) -> tuple[int, int] | None:
    """Return (height, width) of a final map, None where there is no single map."""
    layout = layout_of(model, features)
    if not isinstance(features, Tensor) or layout not in ("NCHW", "NHWC"):
        return None
    height, width = features.shape[2:] if layout == "NCHW" else features.shape[1:3]
    return int(height), int(width)


@dataclass
class PatchCover:
    """Part of an image that a network's patches cover, per axis (down, across).

    Args:
        left_out: pixels at the far edge that no patch covers; 0 where all is seen.
        unit: multiple of pixels that the patches cover without a rest.
    """

    left_out: list[int] = field(default_factory=lambda: [0, 0])
    unit: list[int] = field(default_factory=lambda: [1, 1])


@contextmanager
def watching_patches(model: TimmModel, image_size: tuple[int, int]) -> Iterator[PatchCover]:
    """Watch a forward pass for layers that cut their map into patches, and for what these leave over.

    Args:
        model: the model that is run inside the block.
        image_size: (height, width) of the images in pixels.

    Yields:
        What the pass finds.
    """
    cover = PatchCover()
    smallest = list(image_size)

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str) or inputs[0].ndim != 4:
            return
        for axis in (0, 1):
            size, stride = inputs[0].shape[2 + axis], layer.stride[axis]
            if stride > 1 and layer.kernel_size[axis] == stride and not layer.padding[axis]:
                cover.left_out[axis] = cover.left_out[axis] or size % stride * (image_size[axis] // size)
                if size <= smallest[axis]:  # not a branch beside a layer that was counted
                    smallest[axis] = size // stride
                    cover.unit[axis] *= stride

    hooks = [layer.register_forward_pre_hook(watch) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        yield cover
    finally:
        for hook in hooks:
            hook.remove()


def needs_contiguous(model: nn.Module) -> bool:
    """Return true if a network must not run channels-last on the CPU.

    oneDNN writes beyond its memory in the backward pass of a strided convolution of 1x1 over few channels (FastViT's,
    RepVGG's and MobileOne's stems).
    """
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return any(
        layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels // layer.groups < _ONEDNN_BLOCK
        for layer in convolutions
    )


def unused_parameters(module: nn.Module, images: Tensor) -> tuple[int, tuple[str, ...]]:
    """Send images through a feature extractor and see which trainable parameters its output does not depend on.

    Args:
        module: maps ``images`` to (B, F).
        images: a batch the module accepts.

    Returns:
        F, and the names of the parameters without a gradient; none where nothing is trainable.
    """
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        features = module(images)
        parameters = list(trainable.values())
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True) if parameters else ()
    unused = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    return int(features.shape[1]), tuple(unused)
