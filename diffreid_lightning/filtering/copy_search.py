"""Find the nearest other image by pixel distance of thumbnails (near-copies).

Re-ID features bring all images of a person together, so they cannot tell a copy from another image of the same person.
Thumbnails can: the distance is the root mean square difference, as in the search for memorized training images by
Carlini et al. (arXiv 2301.13188), here of whole images and of their mirror images.
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
_TILE = 4096  # others compared at a time
_BLOCK = 512  # rows compared at a time in a group
_EXACT = 2**24  # float32 holds whole numbers up to it


def thumbnails(images: Tensor) -> Tensor:
    """Shrink images to thumbnails by averaging.

    Args:
        images: (B, 3, H, W) in 0..1.

    Returns:
        (B, 1536) uint8 in 0..255; three planes of 32 × 16.
    """
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), SIZE)
    return small.mul(255).round().clamp(0, 255).to(torch.uint8).flatten(1)


def mirror(thumbs: Tensor) -> Tensor:
    """Mirror thumbnails, (B, 1536), left to right."""
    return thumbs.view(-1, 3, *SIZE).flip(-1).reshape(len(thumbs), LENGTH)


def rms(one: Tensor, other: Tensor) -> Tensor:
    """Compute the RMS difference of corresponding thumbnails, (B, 1536) uint8 each; (B,) in 0..1."""
    return (one.float() - other.float()).square().mean(dim=1).sqrt() / 255


class Thumbnails(NamedTuple):
    """Reference images of :func:`nearest`, prepared once; 5 bytes per value instead of 1."""

    bytes: Tensor  #: (N, 1536) uint8
    values: Tensor  #: (N, 1536) float32, whole numbers in -128..127
    squares: Tensor  #: (N,) squared lengths of the values


def precompute(thumbs: Tensor) -> Thumbnails:
    """Prepare thumbnails, (N, 1536) uint8, for :func:`nearest`."""
    values = _center(thumbs)
    squares = [tile.square().sum(dim=1) for tile in values.split(_TILE)]
    return Thumbnails(thumbs, values, torch.cat(squares))


def nearest(thumbs: Tensor, others: Thumbnails, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest of other images, mirrored or not.

    Args:
        thumbs: (B, 1536) uint8.
        others: N prepared thumbnails, N at least 1, on the same device.
        exclude: (B,) a row of ``others`` to ignore (the image itself); None for none.

    Returns:
        distances: (B,) float32, 0 to 1.
        rows: (B,) int64 rows of ``others``; the first of equally near ones.
    """
    best = thumbs.new_full((len(thumbs),), torch.inf, dtype=torch.float32)
    rows = torch.zeros(len(thumbs), dtype=torch.int64, device=thumbs.device)
    turned = torch.zeros(len(thumbs), dtype=torch.bool, device=thumbs.device)
    forms = (_center(thumbs), _center(mirror(thumbs)))
    with exact_products():
        for start in range(0, len(others.bytes), _TILE):
            tile, lengths = others.values[start : start + _TILE], others.squares[start : start + _TILE]
            for is_mirrored, form in enumerate(forms):
                gaps = lengths - 2 * (form @ tile.T)  # without the thumbnail's own square, a constant
                if exclude is not None:
                    inside = ((exclude >= start) & (exclude < start + len(tile))).nonzero().flatten()
                    gaps[inside, exclude[inside] - start] = torch.inf
                least, place = gaps.min(dim=1)
                nearer = least < best
                best = torch.where(nearer, least, best)
                rows = torch.where(nearer, place + start, rows)
                turned = torch.where(nearer, torch.full_like(turned, bool(is_mirrored)), turned)
    chosen = torch.where(turned[:, None], mirror(thumbs), thumbs)
    distances = rms(chosen, others.bytes[rows])  # recomputed without the rounding of large products
    return distances.masked_fill(best.isinf(), torch.inf), rows


def later_copies(thumbs: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.int64]:
    """Find copies of earlier images that are not copies themselves.

    Args:
        thumbs: (N, 1536), the best image first.
        threshold: distances below it make a copy, 0 to 1.

    Returns:
        (N,) the row of each image's original; -1 if it is no copy.
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
    """Compute all pairwise distances, mirrored or not, (B, N); the others include the thumbnails."""
    forms, right = [_center(thumbs), _center(mirror(thumbs))], _center(others)
    if right.square().sum(dim=1).max() > _EXACT:  # nearly black or white
        forms, right = [form.double() for form in forms], right.double()
    with exact_products():
        products = torch.maximum(forms[0] @ right.T, forms[1] @ right.T)
        squares = forms[0].square().sum(dim=1)[:, None] + right.square().sum(dim=1) - 2 * products
    return ((squares.clamp(min=0) / LENGTH).sqrt().float() / 255).numpy()


def _center(thumbs: Tensor) -> Tensor:
    """Shift to whole numbers around 0, whose products float32 sums exactly up to :data:`_EXACT`."""
    return thumbs.float() - 128
