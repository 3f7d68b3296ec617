"""A z-buffer rasterizer in NumPy: triangles in, nearest face and barycentric weights per sample out.

No OpenGL, so it runs on any machine that has NumPy. Anti-aliasing is by supersampling: rasterize at a multiple of the
wanted size, shade every covered sample and average blocks with :func:`downsample`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Real = NDArray[np.floating]

# A key packs the depth (high bits) above the face index (low bits) so that ONE integer minimum per sample resolves
# depth and owner together, and equal depths always go to the lower face index.
_FACE_BITS = 24
_DEPTH_LEVELS = float(2**36)
_EMPTY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Fragments:
    """The covered samples of one view, in raster order; N is their number.

    Attributes:
        sample: (N,) flat index of each covered sample, ``row * width + column``.
        face: (N,) index of the nearest face there.
        weights: (N, 3) perspective-correct barycentric weights of the face's corners; each row sums to 1.
        depth: (N,) depth along the viewing axis, in the unit of the vertices.
        height: rows of the view.
        width: columns of the view.
    """

    sample: NDArray[np.int64]
    face: NDArray[np.int64]
    weights: NDArray[np.float32]
    depth: NDArray[np.float32]
    height: int
    width: int

    def interpolate(self, faces: NDArray[np.int64], attribute: Array) -> Array:
        """Spread a per-vertex attribute over the fragments.

        Args:
            faces: (F, 3) vertex indices, the same array that was rasterized.
            attribute: (V,) or (V, C) values at the vertices.

        Returns:
            (N,) or (N, C) values at the fragments.
        """
        corners = faces[self.face]
        weights = self.weights if attribute.ndim == 1 else self.weights[:, :, None]
        total = attribute[corners[:, 0]] * weights[:, 0]
        for corner in (1, 2):
            total += attribute[corners[:, corner]] * weights[:, corner]
        return total


def rasterize(points: Real, depth: Real, faces: NDArray[np.int64], height: int, width: int) -> Fragments:
    """Find the nearest triangle under every sample of a ``height`` x ``width`` grid.

    A sample sits at the center of its cell, (column + 0.5, row + 0.5). Triangles with a corner at or behind the eye
    (depth <= 0) are left out.

    Args:
        points: (V, 2) screen position (x to the right, y down) in samples.
        depth: (V,) distance along the viewing axis, > 0 in front of the eye.
        faces: (F, 3) vertex indices, F < 2**24.
        height: rows.
        width: columns.

    Returns:
        The covered samples.
    """
    flat_points, flat_depth = np.asarray(points, dtype=np.float32), np.asarray(depth, dtype=np.float32)
    x0, x1, x2 = (flat_points[faces[:, k], 0] for k in range(3))
    y0, y1, y2 = (flat_points[faces[:, k], 1] for k in range(3))
    z0, z1, z2 = (flat_depth[faces[:, k]] for k in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    keep = (_least(z0, z1, z2) > 0) & (area != 0)
    # First and one-past-last sample centers inside each bounding box, clipped to the grid.
    left = np.clip(np.ceil(_least(x0, x1, x2) - 0.5), 0, width).astype(np.int64)
    right = np.clip(np.floor(_most(x0, x1, x2) - 0.5) + 1, 0, width).astype(np.int64)
    top = np.clip(np.ceil(_least(y0, y1, y2) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.floor(_most(y0, y1, y2) - 0.5) + 1, 0, height).astype(np.int64)
    columns, rows = np.maximum(right - left, 0), np.maximum(bottom - top, 0)
    chosen = np.flatnonzero(keep & (columns * rows > 0))
    if not len(chosen):
        return _no_fragments(height, width)

    # One entry per (triangle, sample of its box), laid out flat.
    counts = (columns * rows)[chosen]
    owner = np.repeat(np.arange(len(chosen)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    box_columns = columns[chosen][owner]
    pair_row = top[chosen][owner] + within // box_columns
    pair_column = left[chosen][owner] + within % box_columns
    sample_x, sample_y = pair_column.astype(np.float32) + 0.5, pair_row.astype(np.float32) + 0.5

    # Edge functions, made barycentric by dividing by the area. Offsets are taken from a corner: a plane through the
    # origin would lose digits far from it.
    inverse_area = 1.0 / area[chosen]
    corners = [(corner_x[chosen], corner_y[chosen]) for corner_x, corner_y in ((x0, y0), (x1, y1), (x2, y2))]
    weights = []
    for i, j in ((1, 2), (2, 0)):
        (xi, yi), (xj, yj) = corners[i], corners[j]
        a, b = (yi - yj) * inverse_area, (xj - xi) * inverse_area
        weights.append(a[owner] * (sample_x - xi[owner]) + b[owner] * (sample_y - yi[owner]))
    weights.append(1 - weights[0] - weights[1])
    inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0)
    owner, flat = owner[inside], pair_row[inside] * width + pair_column[inside]
    face = chosen[owner]

    # 1/depth is linear on the screen; dividing by it makes the weights perspective-correct.
    scaled = [weight[inside] / z[face] for weight, z in zip(weights, (z0, z1, z2), strict=True)]
    pair_depth = 1.0 / (scaled[0] + scaled[1] + scaled[2])
    near = float(min(z[chosen].min() for z in (z0, z1, z2)))
    far = float(max(z[chosen].max() for z in (z0, z1, z2)))
    level = (pair_depth.astype(np.float64) - near) / max(far - near, 1e-9) * (_DEPTH_LEVELS - 1)
    key = (np.clip(level, 0, _DEPTH_LEVELS - 1).astype(np.int64) << _FACE_BITS) | face
    nearest = np.full(height * width, _EMPTY, dtype=np.int64)
    np.minimum.at(nearest, flat, key)
    won = nearest[flat] == key
    order = np.argsort(flat[won], kind="stable")
    pick = np.flatnonzero(won)[order]
    share = np.stack([part[pick] for part in scaled], axis=1) * pair_depth[pick, None]
    return Fragments(flat[pick], face[pick], share, pair_depth[pick], height, width)


# NumPy reduces an axis of length 3 many times slower than it compares three arrays.
def _least(a: Array, b: Array, c: Array) -> Array:
    return np.minimum(np.minimum(a, b), c)


def _most(a: Array, b: Array, c: Array) -> Array:
    return np.maximum(np.maximum(a, b), c)


def _no_fragments(height: int, width: int) -> Fragments:
    nothing = np.zeros(0, dtype=np.int64)
    return Fragments(nothing, nothing, np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.float32), height, width)


def downsample(samples: Array, factor: int) -> Array:
    """Average ``factor`` x ``factor`` blocks: (H * factor, W * factor, ...) to (H, W, ...)."""
    height, width = samples.shape[0] // factor, samples.shape[1] // factor
    blocks = samples.reshape(height, factor, width, factor, *samples.shape[2:])
    return blocks.mean(axis=(1, 3), dtype=np.float32)
