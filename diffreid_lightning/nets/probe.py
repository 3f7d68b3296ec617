"""What a network reveals when a blank image is sent through it: the layout of its map, the parameters it uses.

Blank images draw no random numbers, so probing does not shift anyone's seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from diffreid_lightning.nets.timm_model import TimmModel

Layout: TypeAlias = Literal["NCHW", "NHWC", "NLC", "other"]

# What layers raise when a map has another size than they were written for.
DOES_NOT_FIT = (AssertionError, IndexError, RuntimeError, ValueError)


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


def unused_parameters(module: nn.Module, images: Tensor) -> tuple[int, tuple[str, ...]]:
    """Send images through a feature extractor and see which trainable parameters its output does not depend on.

    Args:
        module: maps ``images`` to (B, F).
        images: a batch the module accepts.

    Returns:
        F, and the names of the parameters without a gradient.
    """
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        features = module(images)
        gradients = torch.autograd.grad(features.sum(), list(trainable.values()), allow_unused=True)
    unused = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    return int(features.shape[1]), tuple(unused)
