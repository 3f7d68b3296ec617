"""Variations of timm's networks that other projects trained their weights in, each known by a name.

* ``ceil_stem``: a ResNet whose stem pools without padding and rounds up, as fast-reid's does.
* ``full_windows_7`` (or another side): a Swin transformer that pads small maps to whole windows and shifts them all
  the same, as mmcv's does; timm shrinks the windows instead.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from diffreid_lightning.errors import UserError

CEIL_STEM = "ceil_stem"
FULL_WINDOWS = "full_windows_"

Edit: TypeAlias = tuple[str, str, int | bool | tuple[int, ...]]

_STEM: tuple[tuple[str, int | bool], ...] = (("padding", 0), ("ceil_mode", True))


def is_variant(name: object) -> bool:
    """Whether a value, read from a file, names a variation."""
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
    resize = getattr(model, "set_input_size", None)
    if resize is None or not hasattr(model, "layers") or not hasattr(model, "patch_embed"):
        raise _cannot(variant, name, "a Swin transformer")
    side = int(variant.removeprefix(FULL_WINDOWS))
    resize(window_size=(side, side), always_partition=True)


def edits_of(variant: str | None) -> list[Edit]:
    """List the attributes of layers that make a stock timm model, built with its recorded arguments, the variation."""
    return [("maxpool", attribute, value) for attribute, value in _STEM] if variant == CEIL_STEM else []


def _cannot(variant: str, name: str, needed: str) -> UserError:
    return UserError(
        f"{name} has no such variation: {variant}.",
        looked_for=needed,
        remedy="choose the backbone that the weights were made for",
    )
