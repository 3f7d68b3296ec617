"""The rasterizer against hand-made scenes and a slow reference that asks every triangle at every sample."""

from __future__ import annotations

import numpy as np
import pytest

from tools.miniperson.raster import downsample, rasterize


def _reference(points, depth, faces, height, width):
    """Nearest face and depth per sample by brute force in float64; -1 where there is none."""
    owner = np.full((height, width), -1)
    nearest = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            sample = np.array([column + 0.5, row + 0.5])
            for index, face in enumerate(faces):
                a, b, c = points[face].astype(np.float64)
                system = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
                if abs(np.linalg.det(system)) < 1e-9:
                    continue
                weights = np.linalg.solve(system, [*sample, 1])
                if (weights < 0).any():
                    continue
                at = 1 / (weights / depth[face]).sum()
                if at < nearest[row, column]:
                    owner[row, column], nearest[row, column] = index, at
    return owner, nearest


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    height, width, count = 17, 23, 30
    points = rng.uniform(-6, 30, (count, 2)).astype(np.float32)
    depth = rng.uniform(1, 9, count).astype(np.float32)
    faces = rng.integers(0, count, (25, 3))
    fragments = rasterize(points, depth, faces, height, width)
    owner, nearest = _reference(points, depth, faces, height, width)
    found = np.full((height, width), -1)
    found.reshape(-1)[fragments.sample] = fragments.face
    # Only samples within rounding of an edge may differ.
    assert (found != owner).mean() < 0.005
    same = (found == owner).reshape(-1)[fragments.sample]
    np.testing.assert_allclose(fragments.depth[same], nearest.reshape(-1)[fragments.sample][same], rtol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1, 2.5])
def test_coverage_is_the_area_of_the_triangle(angle):
    corners = np.array([[0, -20], [17, 12], [-15, 9]], dtype=np.float64)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = corners @ turn.T + 32
    (ax, ay), (bx, by), (cx, cy) = points
    area = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2
    factor = 4
    fragments = rasterize(points * factor, np.ones(3), np.array([[0, 1, 2]]), 64 * factor, 64 * factor)
    cover = np.zeros(64 * 64 * factor**2)
    cover[fragments.sample] = 1
    grey = downsample(cover.reshape(64 * factor, 64 * factor), factor)
    assert grey.sum() == pytest.approx(area, rel=0.01)
    # Anti-aliased: along the edges there are values between nothing and everything.
    assert ((grey > 0) & (grey < 1)).sum() > 30


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_triangle_hides_the_farther_whatever_the_order(order):
    points = np.array([[0, 0], [20, 0], [0, 20], [4, 4], [20, 4], [4, 20]], dtype=np.float32)
    depth = np.array([5, 5, 5, 3, 3, 3], dtype=np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 5]])[list(order)]
    fragments = rasterize(points, depth, faces, 20, 20)
    image = np.zeros((20, 20))
    image.reshape(-1)[fragments.sample] = fragments.depth
    assert image[1, 1] == pytest.approx(5)
    assert image[6, 6] == pytest.approx(3)


def test_crossing_triangles_swap_where_they_meet():
    # One rises to the right, the other falls: equal depth in the middle column.
    points = np.array([[0, 0], [20, 0], [20, 20], [0, 20]] * 2, dtype=np.float32)
    depth = np.array([2, 4, 4, 2, 4, 2, 2, 4], dtype=np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize(points, depth, faces, 20, 20)
    first = (fragments.face < 2).reshape(20, 20)
    assert first[:, :9].all() and not first[:, 11:].any()
    assert fragments.depth.max() < 2.9


@pytest.mark.parametrize("seed", range(3))
def test_attributes_are_perspective_correct(seed):
    """An attribute that is linear in space must come out as the value at the point where the ray meets the plane."""
    rng = np.random.default_rng(seed)
    space = np.stack([rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), rng.uniform(2, 6, 3)], axis=1)
    points = space[:, :2] / space[:, 2:] * 40 + 32
    faces = np.array([[0, 1, 2]])
    fragments = rasterize(points, space[:, 2], faces, 64, 64)
    assert len(fragments.sample) > 20
    met = fragments.interpolate(faces, space.astype(np.float32))
    seen_x = (fragments.sample % 64 + 0.5 - 32) / 40 * met[:, 2]
    np.testing.assert_allclose(met[:, 0], seen_x, atol=1e-3)
    np.testing.assert_allclose(fragments.weights.sum(axis=1), 1, atol=1e-5)


def test_a_shared_edge_leaves_no_gap():
    rng = np.random.default_rng(0)
    side = 12
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * 5.0
    inner = ((grid > 0) & (grid < 55)).all(axis=1)
    grid[inner] += rng.uniform(-1.5, 1.5, (inner.sum(), 2))
    start = np.array([r * side + c for r in range(side - 1) for c in range(side - 1)])
    faces = np.concatenate(
        [
            np.stack([start, start + 1, start + side + 1], axis=1),
            np.stack([start, start + side + 1, start + side], axis=1),
        ]
    )
    fragments = rasterize(grid, np.ones(len(grid)), faces, 55, 55)
    assert len(fragments.sample) == 55 * 55
    assert len(np.unique(fragments.sample)) == 55 * 55


def test_nothing_in_sight_and_behind_the_eye():
    points = np.array([[100, 100], [120, 100], [100, 120], [1, 1], [9, 1], [1, 9]], dtype=np.float32)
    depth = np.array([1, 1, 1, -1, 2, 2], dtype=np.float32)
    fragments = rasterize(points, depth, np.array([[0, 1, 2], [3, 4, 5]]), 10, 10)
    assert len(fragments.sample) == 0
    assert fragments.interpolate(np.array([[0, 1, 2]]), depth).shape == (0,)
