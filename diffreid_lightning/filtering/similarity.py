"""Copies among images: how far one is from the nearest of others, pixel by pixel, on thumbnails.

A Re-ID network is trained to put all images of a person into one place, so its features cannot tell a copy from another
image of the same person. Thumbnails can: the distance is the root mean square of their differences, as in the search
for memorized training images by Carlini et al. (arXiv 2301.13188), here of whole images and of their mirror images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.metrics.functional.tiled_matmul import exact_products

#: height and width in pixels
SIZE = (32, 16)
LENGTH = 3 * SIZE[0] * SIZE[1]
_TILE = 4096  # others compared at once
_BLOCK = 512  # rows of a group decided on at once


def thumbnails(images: Tensor) -> Tensor:
    """Shrink images to thumbnails by averaging.

    Args:
        images: (B, 3, H, W) in 0..1.

    Returns:
        (B, 1536) uint8 in 0..255; three planes of 32 × 16.
    """
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), SIZE)
    return small.mul(255).round().clamp(0, 255).to(torch.uint8).flatten(1)


def mirrored(thumbs: Tensor) -> Tensor:
    """Mirror thumbnails, (B, 1536), left to right."""
    return thumbs.view(-1, 3, *SIZE).flip(-1).reshape(len(thumbs), LENGTH)


def rms(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square difference of corresponding thumbnails, (B, 1536) uint8 each; (B,) in 0..1."""
    return (one.float() - other.float()).square().mean(dim=1).sqrt() / 255


class Thumbnails(NamedTuple):
    """Images that others are compared with again and again: 4 bytes a number where they are kept, in place of 1."""

    bytes: Tensor  #: (N, 1536) uint8
    values: Tensor  #: (N, 1536) float32 in -0.5..0.5
    squares: Tensor  #: (N,) squared lengths of the values


def centerd(thumbs: Tensor) -> Thumbnails:
    """Make thumbnails, (N, 1536) uint8, ready for many calls of :func:`nearest`."""
    values = _centerd(thumbs)
    squares = [tile.square().sum(dim=1) for tile in values.split(_TILE)]
    return Thumbnails(thumbs, values, torch.cat(squares))


def nearest(thumbs: Tensor, others: Tensor | Thumbnails, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest of other images, which may be mirrored.

    Args:
        thumbs: (B, 1536) uint8.
        others: (N, 1536) uint8, or what :func:`centerd` made of them, on the same device; N at least 1.
        exclude: (B,) the row of ``others`` that does not count (an image's own); None for none.

    Returns:
        distances: (B,) float32, 0 to 1.
        rows: (B,) int64, which of the others; the first of several that are equally near.
    """
    plain = others.bytes if isinstance(others, Thumbnails) else others
    best = thumbs.new_full((len(thumbs),), torch.inf, dtype=torch.float32)
    rows = torch.zeros(len(thumbs), dtype=torch.int64, device=thumbs.device)
    turned = torch.zeros(len(thumbs), dtype=torch.bool, device=thumbs.device)
    forms = (_centerd(thumbs), _centerd(mirrored(thumbs)))
    with exact_products():
        for start in range(0, len(plain), _TILE):
            tile, lengths = _tile_of(others, start)
            for is_mirrored, form in enumerate(forms):
                gaps = lengths - 2 * (form @ tile.T)  # less the thumbnail's own square, equal for all others
                if exclude is not None:
                    inside = ((exclude >= start) & (exclude < start + len(tile))).nonzero().flatten()
                    gaps[inside, exclude[inside] - start] = torch.inf
                least, place = gaps.min(dim=1)
                nearer = least < best
                best = torch.where(nearer, least, best)
                rows = torch.where(nearer, place + start, rows)
                turned = torch.where(nearer, torch.full_like(turned, bool(is_mirrored)), turned)
    chosen = torch.where(turned[:, None], mirrored(thumbs), thumbs)
    distances = rms(chosen, plain[rows])  # once more without the rounding of large products
    return distances.masked_fill(best.isinf(), torch.inf), rows


def _tile_of(others: Tensor | Thumbnails, start: int) -> tuple[Tensor, Tensor]:
    """Centerd values of the next few others, and their squared lengths."""
    part = slice(start, start + _TILE)
    if isinstance(others, Thumbnails):
        return others.values[part], others.squares[part]
    made = centerd(others[part])
    return made.values, made.squares


def later_copies(thumbs: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.int64]:
    """Find what is too near to something before it that is not itself a copy.

    Args:
        thumbs: (N, 1536), the best image first.
        threshold: distances below it make a copy, 0 to 1.

    Returns:
        (N,) the row that each is a copy of; -1 where it is none.
    """
    copy_of = np.full(len(thumbs), -1, dtype=np.int64)
    everyone = torch.from_numpy(np.array(thumbs))
    originals = np.empty(0, dtype=np.int64)
    for start in range(0, len(thumbs), _BLOCK):
        block = everyone[start : start + _BLOCK]
        candidates = np.concatenate([originals, np.arange(start, start + len(block))])
        near = _distances(block, everyone[candidates]) < threshold
        near = np.minimum(near, candidates[None] < start + np.arange(len(block))[:, None])
        for row in np.flatnonzero(near.any(axis=1)).tolist():
            before = candidates[near[row]]
            before = before[copy_of[before] < 0]
            if len(before):
                copy_of[start + row] = before[0]
        originals = np.flatnonzero(copy_of[: start + len(block)] < 0)
    return copy_of


def _distances(thumbs: Tensor, others: Tensor) -> npt.NDArray[np.float32]:
    """Distance of each to each, mirrored or not, (B, N)."""
    with exact_products():
        right = _centerd(others)
        forms = [_centerd(thumbs), _centerd(mirrored(thumbs))]
        products = torch.maximum(forms[0] @ right.T, forms[1] @ right.T)
        squares = forms[0].square().sum(dim=1)[:, None] + right.square().sum(dim=1) - 2 * products
    return (squares.clamp(min=0) / LENGTH).sqrt().numpy()


def _centerd(thumbs: Tensor) -> Tensor:
    return thumbs.float() / 255 - 0.5
