"""Apply the variations of timm's networks that other projects trained their weights in, each by its name.

* ``ceil_stem``: a ResNet whose stem pools without padding and rounds up, as fast-reid's does.
* ``full_windows_7`` (or another side): a Swin transformer that pads each map to whole windows and then shifts it, as
  mmcv's and the original detector's do; timm shrinks the windows to small maps, and shifts before it pads.
"""

from __future__ import annotations

from typing import TypeAlias

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn.functional import pad

from diffreid_lightning.errors import UserError

CEIL_STEM = "ceil_stem"
FULL_WINDOWS = "full_windows_"

Edit: TypeAlias = tuple[str, str, int | bool | tuple[int, ...]]

_STEM: tuple[tuple[str, int | bool], ...] = (("padding", 0), ("ceil_mode", True))


def is_variant(name: object) -> bool:
    """Return true if a value read from a file names a variant."""
    return isinstance(name, str) and (name == CEIL_STEM or name.removeprefix(FULL_WINDOWS).isdecimal())


def code_of(variant: str | None) -> int:
    """Return the number that stands for a variation in a checkpoint; 0 for none."""
    if variant is None:
        return 0
    return 1 if variant == CEIL_STEM else 100 + int(variant.removeprefix(FULL_WINDOWS))


def variant_of(code: int) -> str | None:
    """Return the variation that a number of :func:`code_of` stands for."""
    if code <= 0:
        return None
    return CEIL_STEM if code == 1 else f"{FULL_WINDOWS}{code - 100}"


def apply_variant(model: nn.Module, variant: str, name: str) -> None:
    """Turn a timm model into a variation of it.

    Args:
        model: the model, changed in place.
        variant: name of the variation.
        name: what the reader calls the model.

    Raises:
        UserError: the model has no layer that could be varied so.
    """
    if variant == CEIL_STEM:
        pool = getattr(model, "maxpool", None)
        if not isinstance(pool, nn.MaxPool2d):
            raise _cannot(variant, name, "a ResNet with a max-pooling layer in its stem")
        for attribute, value in _STEM:
            setattr(pool, attribute, value)
        return
    if not isinstance(model, SwinTransformer):
        raise _cannot(variant, name, "a Swin transformer")
    side = int(variant.removeprefix(FULL_WINDOWS))
    model.set_input_size(window_size=(side, side), always_partition=True)
    for block in model.modules():
        if isinstance(block, SwinTransformerBlock):
            block.__class__ = _PaddedFirst


class _PaddedFirst(SwinTransformerBlock):
    """A Swin block that pads its map before it shifts it, so that the padding takes part in the shift."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        (rows, columns), shift = self.window_size, self.shift_size
        x = pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        windows = window_partition(x, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=self.get_attn_mask(x) if self.dynamic_mask else self.attn_mask)
        windows = windows.unflatten(1, (rows, columns))
        x = window_reverse(windows, self.window_size, x.shape[1], x.shape[2])
        return x.roll(shift, dims=(1, 2))[:, :height, :width].contiguous()


def edits_of(variant: str | None) -> list[Edit]:
    """List the attributes of layers that make a stock timm model, built with its recorded arguments, the variation."""
    return [("maxpool", attribute, value) for attribute, value in _STEM] if variant == CEIL_STEM else []


def _cannot(variant: str, name: str, needed: str) -> UserError:
    return UserError(
        f"{name} has no such variation: {variant}.",
        looked_for=needed,
        remedy="choose the backbone that the weights were made for",
    )
