"""Set the last stride to 1, which doubles the final feature map (Luo et al., CVPRW 2019, section 3.5).

The stride of the last downsampling becomes 1 and nothing is dilated, so the weights and the receptive field of every
kernel stay what they were. (timm's ``output_stride=16`` dilates the last stage, which is another network.) No table of
architectures is kept: the strided layers are found by watching a forward pass, and the change is verified by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffreid_lightning.backbones.shape_probe import DOES_NOT_FIT, evaluating, map_size
from diffreid_lightning.backbones.timm_model import TimmModel

_PROBE_SIZE = (128, 64)  # any size that 32 divides twice over tells reduction 16 from 32


@dataclass(frozen=True)
class StrideEdit:
    """One attribute of one layer, before and after the change.

    Args:
        module: dotted name of the layer inside the model.
        attribute: ``stride``, or ``kernel_size`` where a pooling layer turns into the identity.
        before: value the architecture was built with.
        after: value that keeps the resolution.
    """

    module: str
    attribute: str
    before: int | tuple[int, ...]
    after: int | tuple[int, ...]


def find_last_stride(model: TimmModel, fixed_size: tuple[int, int] | None = None) -> tuple[StrideEdit, ...]:
    """Find the edits that give the last downsampling of a timm model stride 1, and verify them.

    The candidates are the layers that take the map from reduction 16 to reduction 32. The edits are tried, and kept
    only if the final map becomes exactly twice as large in both directions.

    Args:
        model: a timm model with ``forward_features``; its weights, modes and strides are the same afterwards.
        fixed_size: (height, width) in pixels for a model that accepts one size only, None for one that takes any.

    Returns:
        The edits for :func:`apply_edits`. Empty where the architecture has no such stride: a plain ViT, a patch-merging
        transformer, a ConvNeXt whose kernel is as large as its stride.
    """
    height, width = fixed_size or _PROBE_SIZE
    if height % 32 or width % 32:
        return ()
    with evaluating(model), torch.no_grad():
        parameter = next(model.parameters())
        images = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
        try:
            before, names = _watch(model, images)
        except DOES_NOT_FIT:  # an architecture that needs larger images than the probe
            return ()
        if before != (height // 32, width // 32):
            return ()
        layers = {name: _edits(name, model.get_submodule(name)) for name in names}
        if not _doubles(model, images, layers):
            return ()
        # A layer the map does not pass through (one that thins the keys of an attention) fits either way: leave it.
        for name in names:
            others = {other: edits for other, edits in layers.items() if other != name}
            if _doubles(model, images, others):
                layers = others
    return tuple(edit for edits in layers.values() for edit in edits)


def apply_edits(model: nn.Module, edits: Iterable[StrideEdit], *, undo: bool = False) -> None:
    """Set every edited attribute of ``model`` to its ``after`` value, or back to its ``before`` value."""
    for edit in edits:
        setattr(model.get_submodule(edit.module), edit.attribute, edit.before if undo else edit.after)


def _watch(model: TimmModel, images: Tensor) -> tuple[tuple[int, int] | None, list[str]]:
    """Run one forward pass; return the final map's size and the layers that went from reduction 16 to 32 in it."""
    height, width = images.shape[-2:]
    entering, leaving = (height // 16, width // 16), (height // 32, width // 32)
    found: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        if _pair(getattr(module, "stride", None)) != (2, 2) or any(module.children()):
            continue

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            sizes = tuple(inputs[0].shape[-2:]), tuple(output.shape[-2:])
            if inputs[0].ndim == 4 and sizes == (entering, leaving) and name not in found:
                found.append(name)

        hooks.append(module.register_forward_hook(record))
    try:
        return map_size(model, model.forward_features(images)), found
    finally:
        for hook in hooks:
            hook.remove()


def _doubles(model: TimmModel, images: Tensor, layers: Mapping[str, tuple[StrideEdit, ...]]) -> bool:
    """Try some edits: do the branches of the network still meet, and in a map of reduction 16?"""
    edits = [edit for group in layers.values() for edit in group]
    apply_edits(model, edits)
    try:
        size = map_size(model, model.forward_features(images))
    except DOES_NOT_FIT:
        return False
    finally:
        apply_edits(model, edits, undo=True)
    return size == (images.shape[-2] // 16, images.shape[-1] // 16)


def _edits(name: str, layer: nn.Module) -> tuple[StrideEdit, ...]:
    """List the edits of one strided layer.

    A pooling layer whose window is its stride (the average pooling of a ResNet-D shortcut) becomes the identity, which
    is what timm builds for a block of stride 1; sliding its window instead would lose a row and a column.
    """
    is_window = isinstance(layer, nn.AvgPool2d | nn.MaxPool2d) and _pair(layer.kernel_size) == (2, 2)
    attributes = ("stride", "kernel_size") if is_window else ("stride",)
    return tuple(_to_one(name, layer, attribute) for attribute in attributes)


def _to_one(name: str, layer: nn.Module, attribute: str) -> StrideEdit:
    before: Any = getattr(layer, attribute)
    return StrideEdit(name, attribute, before, 1 if isinstance(before, int) else (1, 1))


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None
