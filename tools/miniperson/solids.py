"""Small closed meshes that bags, hats and hair are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Index = NDArray[np.int64]


def grid_faces(rows: int, columns: int, *, wrap: bool) -> Index:
    """Triangles of a (rows, columns) grid of vertices, its last column joined to the first when ``wrap``."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns if wrap else columns - 1), indexing="ij")
    right = (j + 1) % columns
    a, b, c, d = i * columns + j, i * columns + right, (i + 1) * columns + right, (i + 1) * columns + j
    quads = np.stack([a, b, c, d], axis=-1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int64)


def superellipsoid(
    center: tuple[float, float, float], radii: tuple[float, float, float], roundness: float = 1.0, detail: int = 12
) -> tuple[Array, Index]:
    """A ball (``roundness`` 1) that turns into a box as ``roundness`` falls to 0.

    Args:
        center: position in meters.
        radii: half sizes along x, y, z in meters.
        roundness: exponent of sine and cosine, in (0, 1].
        detail: number of meridians; half as many parallels.

    Returns:
        (V, 3) vertices and (F, 3) faces.
    """
    latitude = np.linspace(-np.pi / 2, np.pi / 2, detail // 2 + 3)[:, None]
    longitude = np.linspace(0, 2 * np.pi, detail, endpoint=False)[None, :]

    def power(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sign(value) * np.abs(value) ** roundness

    x = power(np.cos(latitude)) * power(np.cos(longitude))
    y = power(np.cos(latitude)) * power(np.sin(longitude))
    z = power(np.sin(latitude)) * np.ones_like(longitude)
    unit = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    vertices = unit * np.asarray(radii) + np.asarray(center)
    return vertices.astype(np.float32), grid_faces(latitude.shape[0], detail, wrap=True)


def tube(path: NDArray[np.floating], radius: float | NDArray[np.floating], detail: int = 6) -> tuple[Array, Index]:
    """A tube along ``path`` (P, 3) with one radius or one per point."""
    path = np.asarray(path, dtype=np.float64)
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9
    helper = np.where(np.abs(ahead[:, 2:3]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    side = np.cross(ahead, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, ahead)
    angle = np.linspace(0, 2 * np.pi, detail, endpoint=False)
    ring = np.cos(angle)[None, :, None] * side[:, None, :] + np.sin(angle)[None, :, None] * up[:, None, :]
    width = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(path),))
    vertices = path[:, None, :] + ring * width[:, None, None]
    return vertices.reshape(-1, 3).astype(np.float32), grid_faces(len(path), detail, wrap=True)
