"""The empty view of a camera, ray-cast once.

A :class:`Backdrop` has depth, so that people can stand behind furniture, and keeps the key light apart from the rest,
so that people can cast shadows on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tools.miniperson import noise
from tools.miniperson.lighting import fill_light, key_light, lit
from tools.miniperson.scene import Ball, Box, Camera, Column, Place, Solid
from tools.miniperson.surfaces import paint

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Backdrop:
    """The empty view of one camera.

    Attributes:
        soft: (H, W, 3) light that no person blocks (sky, bounce, far lamps, glowing surfaces).
        key: (H, W, 3) light from the sun or the nearest lamp.
        depth: (H, W) depth of the surface, infinite for the sky.
        camera: the camera that sees it.
        place: the scene.
    """

    soft: Array
    key: Array
    depth: Array
    camera: Camera
    place: Place = field(repr=False)


@dataclass
class _Hits:
    """Nearest surface per ray: depth, owner (-1 ground, -2 sky), normal, and surface coordinates."""

    depth: Array
    owner: NDArray[np.int32]
    normal: Array
    uv: Array


def view(place: Place, camera: Camera, samples: int = 2) -> Backdrop:
    """Ray-cast the empty scene.

    Args:
        place: the scene.
        camera: the camera.
        samples: rays per pixel side; the colors are averaged, the depth is taken from one ray.

    Returns:
        The backdrop.
    """
    height, width = camera.height, camera.width
    soft = np.zeros((height, width, 3), dtype=np.float32)
    key = np.zeros((height, width, 3), dtype=np.float32)
    depth = np.full((height, width), np.inf, dtype=np.float32)
    for sub in range(samples * samples):
        shift_x, shift_y = (sub % samples + 0.5) / samples, (sub // samples + 0.5) / samples
        columns, rows = np.meshgrid(np.arange(width) + shift_x, np.arange(height) + shift_y)
        rays = camera.rays(columns.reshape(-1), rows.reshape(-1))
        hits = _cast(place, camera, rays, (height, width))
        part_soft, part_key = _shade(place, camera, rays, hits)
        soft += part_soft.reshape(height, width, 3) / samples**2
        key += part_key.reshape(height, width, 3) / samples**2
        if sub == 0:
            depth = hits.depth.reshape(height, width)
    return Backdrop(soft, key, depth, camera, place)


def _cast(place: Place, camera: Camera, rays: Array, shape: tuple[int, int]) -> _Hits:
    eye = np.asarray(camera.position, dtype=np.float32)
    count = len(rays)
    depth = np.full(count, np.inf, dtype=np.float32)
    owner = np.full(count, -2, dtype=np.int32)
    normal = np.zeros((count, 3), dtype=np.float32)
    uv = np.zeros((count, 2), dtype=np.float32)
    falling = rays[:, 2] < -1e-5
    depth[falling] = -eye[2] / rays[falling, 2]
    owner[falling], normal[falling] = -1, (0, 0, 1)
    ground = eye[:2] + rays[falling, :2] * depth[falling, None]
    uv[falling] = ground
    hits = _Hits(depth, owner, normal, uv)
    index = np.arange(count).reshape(shape)
    for number, solid in enumerate(place.solids):
        window = _window(solid, camera)
        if window is None:
            continue
        top, bottom, left, right = window
        pixels = index[top:bottom, left:right].reshape(-1)
        _intersect(solid, number, eye, rays[pixels], pixels, hits)
    return hits


def _window(solid: Solid, camera: Camera) -> tuple[int, int, int, int] | None:
    """Rows and columns of the frame that can see a solid."""
    if isinstance(solid, Box):
        half = np.hypot(solid.size[0], solid.size[1]) / 2 if solid.yaw else 0
        reach = (half or solid.size[0] / 2, half or solid.size[1] / 2)
        low = np.array([solid.base[0] - reach[0], solid.base[1] - reach[1], solid.base[2]])
        high = np.array([solid.base[0] + reach[0], solid.base[1] + reach[1], solid.base[2] + solid.size[2]])
    elif isinstance(solid, Column):
        spread = np.array([solid.radius, solid.radius, 0])
        low, high = np.asarray(solid.base) - spread, np.asarray(solid.base) + spread + [0, 0, solid.height]
    else:
        low, high = np.asarray(solid.center) - solid.radii, np.asarray(solid.center) + solid.radii
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    pixel, depth = camera.project(corners)
    if depth.max() <= 0.1:
        return None
    if depth.min() <= 0.1:
        return 0, camera.height, 0, camera.width
    left, top = np.floor(pixel.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(pixel.max(axis=0)).astype(int) + 1
    left, right = max(left, 0), min(right, camera.width)
    top, bottom = max(top, 0), min(bottom, camera.height)
    return (top, bottom, left, right) if left < right and top < bottom else None


def _intersect(solid: Solid, number: int, eye: Array, rays: Array, pixels: NDArray[np.int64], hits: _Hits) -> None:
    """Keep the hits of one solid that lie before what is known."""
    if isinstance(solid, Box):
        found, near, normal, uv = _hit_box(solid, eye, rays)
    elif isinstance(solid, Column):
        found, near, normal, uv = _hit_column(solid, eye, rays)
    else:
        found, near, normal, uv = _hit_ball(solid, eye, rays)
    closer = found & (near < hits.depth[pixels])
    chosen = pixels[closer]
    hits.depth[chosen] = near[closer]
    hits.owner[chosen] = number
    hits.normal[chosen] = normal[closer]
    hits.uv[chosen] = uv[closer]


_Hit = tuple[NDArray[np.bool_], Array, Array, Array]


def _hit_box(box: Box, eye: Array, rays: Array) -> _Hit:
    angle = np.deg2rad(box.yaw)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], dtype=np.float32)
    origin = turn @ (eye - np.asarray(box.base, dtype=np.float32))
    local = rays @ turn.T
    low = np.array([-box.size[0] / 2, -box.size[1] / 2, 0], dtype=np.float32)
    high = np.array([box.size[0] / 2, box.size[1] / 2, box.size[2]], dtype=np.float32)
    inverse = 1.0 / np.where(np.abs(local) < 1e-7, 1e-7, local)
    first, second = (low - origin) * inverse, (high - origin) * inverse
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    near, far = enter.max(axis=1), leave.min(axis=1)
    axis = enter.argmax(axis=1)
    found = (near < far) & (near > 0.05)
    point = origin + local * near[:, None]
    row = np.arange(len(rays))
    normal = np.zeros_like(rays)
    normal[row, axis] = -np.sign(local[row, axis])
    across = np.where(axis == 0, point[:, 1], point[:, 0])
    up = np.where(axis == 2, point[:, 1], point[:, 2])
    return found, near, normal @ turn, np.stack([across, up], axis=1)


def _hit_column(column: Column, eye: Array, rays: Array) -> _Hit:
    origin = eye - np.asarray(column.base, dtype=np.float32)
    a = (rays[:, :2] ** 2).sum(axis=1)
    b = rays[:, :2] @ origin[:2]
    c = float(origin[:2] @ origin[:2] - column.radius**2)
    root = b * b - a * c
    near = (-b - np.sqrt(np.maximum(root, 0))) / np.maximum(a, 1e-9)
    z = origin[2] + rays[:, 2] * near
    found = (root > 0) & (near > 0.05) & (z > 0) & (z < column.height)
    around = origin[:2] + rays[:, :2] * near[:, None]
    normal = np.concatenate([around / column.radius, np.zeros((len(rays), 1))], axis=1).astype(np.float32)
    uv = np.stack([np.arctan2(around[:, 1], around[:, 0]) * column.radius, z], axis=1).astype(np.float32)
    return found, near.astype(np.float32), normal, uv


def _hit_ball(ball: Ball, eye: Array, rays: Array) -> _Hit:
    radii = np.asarray(ball.radii, dtype=np.float32)
    origin = (eye - np.asarray(ball.center, dtype=np.float32)) / radii
    local = rays / radii
    a, b, c = (local**2).sum(axis=1), local @ origin, float(origin @ origin) - 1
    root = b * b - a * c
    near = (-b - np.sqrt(np.maximum(root, 0))) / a
    unit = origin + local * near[:, None]
    normal = unit / radii
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    uv = np.stack([np.arctan2(unit[:, 1], unit[:, 0]) * radii[0], unit[:, 2] * radii[2]], axis=1)
    found = (root > 0) & (near > 0.05)
    if ball.surface.kind == "foliage":
        # Ragged outline: leaves leave gaps near the silhouette.
        ragged = noise.fractal((unit * radii * 5).astype(np.float32), ball.surface.seed, 3)
        facing = -(local * unit).sum(axis=1) / (np.linalg.norm(local, axis=1) + 1e-9)
        found &= facing > 0.25 + 0.45 * ragged
    return found, near.astype(np.float32), normal.astype(np.float32), uv.astype(np.float32)


def _shade(place: Place, camera: Camera, rays: Array, hits: _Hits) -> tuple[Array, Array]:
    light = place.light
    soft, key = np.zeros_like(rays), np.zeros_like(rays)
    sky = hits.owner == -2
    up = np.clip(rays[sky, 2:3] / np.linalg.norm(rays[sky], axis=1, keepdims=True) * 2.5, 0, 1)
    soft[sky] = (1 - up) * np.asarray(light.air[0]) + up * np.asarray(light.air[1])
    point = np.asarray(camera.position, dtype=np.float32) + rays * np.where(sky, 0, hits.depth)[:, None]
    for number in np.unique(hits.owner[~sky]):
        chosen = np.flatnonzero(hits.owner == number)
        surface = place.ground if number == -1 else place.solids[number].surface
        albedo, glow = paint(surface, hits.uv[chosen], hits.normal[chosen], rays[chosen], hits.depth[chosen])
        direction, irradiance = key_light(light, point[chosen])
        facing = np.clip((direction * hits.normal[chosen]).sum(axis=1), 0, 1)[:, None]
        reached = lit(place, point[chosen], direction, int(number))
        soft[chosen] = albedo * fill_light(light, point[chosen], hits.normal[chosen]) + glow
        key[chosen] = albedo * irradiance * facing * reached[:, None]
    corner = _contact(place, point, hits)
    # Distance takes contrast away.
    haze = np.clip(1 - np.exp(-np.where(sky, 0, hits.depth) / 140), 0, 0.6)[:, None]
    return soft * corner[:, None] * (1 - haze) + haze * np.asarray(light.air[0]), key * (1 - haze)


def _contact(place: Place, point: Array, hits: _Hits) -> Array:
    """Darken the ground next to solids that stand on it."""
    dark = np.ones(len(point), dtype=np.float32)
    ground = np.flatnonzero((hits.owner == -1) & (hits.depth < 60))
    at = point[ground, :2]
    for solid in place.solids:
        if isinstance(solid, Box) and solid.base[2] < 0.3 and solid.size[2] > 0.25:
            angle = np.deg2rad(solid.yaw)
            local = (at - np.asarray(solid.base[:2])) @ np.array(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            )
            gap = np.maximum(np.abs(local) - np.asarray(solid.size[:2]) / 2, 0)
            distance = np.hypot(gap[:, 0], gap[:, 1])
        elif isinstance(solid, Column) and solid.base[2] < 0.3:
            distance = np.maximum(np.linalg.norm(at - np.asarray(solid.base[:2]), axis=1) - solid.radius, 0)
        else:
            continue
        reach = 0.25
        dark[ground] *= (1 - 0.45 * np.exp(-distance / reach)).astype(np.float32)
    return dark
