"""Seeded, stateless noise: a hash of lattice points, smoothly interpolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def hashed(cells: NDArray[np.int64], seed: int) -> Array:
    """A number in [0, 1) for each integer cell.

    Args:
        cells: (N, D) lattice coordinates.
        seed: another seed, another field.

    Returns:
        (N,) values.
    """
    state = np.full(len(cells), np.uint32((seed * 2654435761 + 97) & 0xFFFFFFFF), dtype=np.uint32)
    for axis in range(cells.shape[1]):
        state ^= cells[:, axis].astype(np.uint32) * np.uint32(0x9E3779B1)
        state ^= state >> np.uint32(15)
        state *= np.uint32(0x85EBCA77)
        state ^= state >> np.uint32(13)
        state *= np.uint32(0xC2B2AE3D)
    state ^= state >> np.uint32(16)
    return (state >> np.uint32(8)).astype(np.float32) / np.float32(2**24)


def smooth(points: Array, seed: int) -> Array:
    """Value noise in [-1, 1] with a wavelength of about one unit.

    Args:
        points: (N, D) positions, D of 2 or 3.
        seed: another seed, another field.

    Returns:
        (N,) values.
    """
    floor = np.floor(points)
    cell = floor.astype(np.int64)
    offset = (points - floor).astype(np.float32)
    blend = offset * offset * (3 - 2 * offset)
    dimensions = points.shape[1]
    total = np.zeros(len(points), dtype=np.float32)
    for corner in range(2**dimensions):
        bits = np.array([(corner >> axis) & 1 for axis in range(dimensions)])
        weight = np.where(bits, blend, 1 - blend).prod(axis=1)
        total += weight * hashed(cell + bits, seed)
    return 2 * total - 1


def fractal(points: Array, seed: int, octaves: int = 3) -> Array:
    """Sum of :func:`smooth` over halving wavelengths, in about [-1, 1]."""
    total = np.zeros(len(points), dtype=np.float32)
    for octave in range(octaves):
        total += smooth(points * 2.0**octave, seed + octave) * 0.5**octave
    return total / (2 - 0.5 ** (octaves - 1))
