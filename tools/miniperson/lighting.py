"""Light at points of a place: the key light, the rest, and what the solids keep from the sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.miniperson.scene import Box, Column, Light, Place, Solid

Array = NDArray[np.float32]


def key_light(light: Light, at: NDArray[np.floating]) -> tuple[Array, Array]:
    """Direction towards the key light and its irradiance at world points.

    By day the key light is the sun; by night it is the lamp that shines strongest there.

    Args:
        light: the place's light.
        at: (N, 3) world points.

    Returns:
        (N, 3) unit directions and (N, 3) irradiances.
    """
    if not light.lamps:
        sun = np.asarray(light.sun) / np.linalg.norm(light.sun)
        shape = (len(at), 3)
        direction, color = np.broadcast_to(sun, shape), np.broadcast_to(light.sun_colour, shape)
        return direction.astype(np.float32), color.astype(np.float32)
    towards, strength, colors = _lamp_light(light, at)
    best = strength.argmax(axis=1)
    row = np.arange(len(at))
    return towards[row, best], (strength[row, best, None] * colors[best]).astype(np.float32)


def fill_light(light: Light, at: NDArray[np.floating], normal: Array) -> Array:
    """Irradiance (N, 3) of everything but the key light on surfaces with unit normals (N, 3)."""
    up = normal[:, 2:3] * 0.5 + 0.5
    total = up * np.asarray(light.sky) + (1 - up) * np.asarray(light.bounce)
    if len(light.lamps) > 1:
        towards, strength, colors = _lamp_light(light, at)
        best = strength.argmax(axis=1)
        facing = np.clip(np.einsum("nlc,nc->nl", towards, normal), 0, 1) * strength
        facing[np.arange(len(at)), best] = 0
        total = total + facing @ colors
    return total.astype(np.float32)


def _lamp_light(light: Light, at: NDArray[np.floating]) -> tuple[Array, Array, Array]:
    place = np.array([lamp.position for lamp in light.lamps], dtype=np.float32)
    colors = np.array([lamp.color for lamp in light.lamps], dtype=np.float32)
    power = np.array([lamp.strength for lamp in light.lamps], dtype=np.float32)
    towards = place[None] - at[:, None].astype(np.float32)
    distance = np.linalg.norm(towards, axis=2)
    return towards / (distance[:, :, None] + 1e-6), power / (1.0 + distance**2), colors


def lit(place: Place, point: Array, direction: Array, owner: int = -1) -> Array:
    """1 where the sun reaches a point past the solids, 0 in shadow; lamps are taken as unblocked."""
    if place.light.lamps or not any(place.light.sun_colour):
        return np.ones(len(point), dtype=np.float32)
    start = point + direction * 0.02
    blocked = np.zeros(len(point), dtype=bool)
    towards = direction[0]
    for number, solid in enumerate(place.solids):
        if number == owner and not isinstance(solid, Box):
            continue
        near = _near_shadow(solid, start, towards)
        if not near.any():
            continue
        chosen = np.flatnonzero(near & ~blocked)
        blocked[chosen] |= _blocks(solid, start[chosen], towards)
    return (~blocked).astype(np.float32)


def _near_shadow(solid: Solid, start: Array, towards: Array) -> NDArray[np.bool_]:
    """Quick test: does the line towards the sun pass the solid's bounding sphere?"""
    if isinstance(solid, Box):
        center = np.asarray(solid.base) + np.array([0, 0, solid.size[2] / 2])
        radius = float(np.linalg.norm(solid.size)) / 2
    elif isinstance(solid, Column):
        center = np.asarray(solid.base) + np.array([0, 0, solid.height / 2])
        radius = float(np.hypot(solid.radius, solid.height / 2))
    else:
        center, radius = np.asarray(solid.center), max(solid.radii)
    away = center.astype(np.float32) - start
    along = away @ towards
    return (along > -radius) & ((away**2).sum(axis=1) - along**2 < radius**2)


def _blocks(solid: Solid, start: Array, towards: Array) -> NDArray[np.bool_]:
    rays = np.broadcast_to(towards, start.shape)
    if isinstance(solid, Box):
        angle = np.deg2rad(solid.yaw)
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], dtype=np.float32)
        origin = (start - np.asarray(solid.base, dtype=np.float32)) @ turn.T
        local = turn @ towards
        inverse = 1.0 / np.where(np.abs(local) < 1e-7, 1e-7, local)
        low = np.array([-solid.size[0] / 2, -solid.size[1] / 2, 0])
        high = np.array([solid.size[0] / 2, solid.size[1] / 2, solid.size[2]])
        first, second = (low - origin) * inverse, (high - origin) * inverse
        near = np.minimum(first, second).max(axis=1)
        far = np.maximum(first, second).min(axis=1)
        return (near < far) & (far > 0.01)
    if isinstance(solid, Column):
        origin = start - np.asarray(solid.base, dtype=np.float32)
        a = float((towards[:2] ** 2).sum())
        b = origin[:, :2] @ towards[:2]
        c = (origin[:, :2] ** 2).sum(axis=1) - solid.radius**2
        root = b * b - a * c
        near = (-b - np.sqrt(np.maximum(root, 0))) / max(a, 1e-9)
        z = origin[:, 2] + towards[2] * near
        return (root > 0) & (near > 0.01) & (z > 0) & (z < solid.height)
    radii = np.asarray(solid.radii, dtype=np.float32)
    origin = (start - np.asarray(solid.center, dtype=np.float32)) / radii
    local = rays / radii
    a, b = (local**2).sum(axis=1), (local * origin).sum(axis=1)
    c = (origin**2).sum(axis=1) - 1
    return (b * b - a * c > 0) & ((b < 0) | (c < 0))
