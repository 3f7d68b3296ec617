"""Procedural surfaces: paving, brick, glass, grass, livery and the like, as a function of place on the surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.miniperson import noise
from tools.miniperson.palette import linear

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """Appearance of a solid; colors are sRGB in [0, 255].

    Args:
        kind: plain, tiles, bricks, planks, grass, asphalt, foliage, glass, facade, livery, posters or shelves.
        color: main color.
        second: joints, panes, painted lines or whatever the kind has beside its ground.
        scale: size of one repeat in meters.
        glow: share of the color that is emitted, 0 none.
        seed: draws the surface's free details.
        lines: paint lines in the second color on asphalt, ``scale`` apart.
    """

    kind: str
    color: tuple[int, int, int]
    second: tuple[int, int, int] = (60, 60, 60)
    scale: float = 0.5
    glow: float = 0.0
    seed: int = 0
    lines: bool = False


@dataclass(frozen=True)
class _Spot:
    """The points of one surface that are being painted: see :func:`paint`."""

    surface: Surface
    uv: Array
    normal: Array
    rays: Array
    fine: Array
    base: Array
    second: Array

    @property
    def plain(self) -> Array:
        """The ground color with a little wear."""
        wear = noise.fractal(self.uv * 3.0, self.surface.seed, 3)[:, None]
        return self.base * (1 + 0.1 * wear)

    def tone(self, cells: Array) -> Array:
        """A number in [0, 1) for each cell, (N, 1)."""
        return noise.hashed(cells.astype(np.int64), self.surface.seed)[:, None]

    def jointed(self, albedo: Array, joint: Array, tone: Array, low: float, range_: float) -> Array:
        """Stones or boards of varying tone with joints between them; both fade where they are finer than a pixel."""
        share = self.fine * joint[:, None]
        return albedo * (low + range_ * tone * self.fine) * (1 - share) + share * self.second


def paint(surface: Surface, uv: Array, normal: Array, rays: Array, depth: Array) -> tuple[Array, Array]:
    """Color points of one surface.

    Args:
        surface: what is painted.
        uv: (N, 2) meters on the surface; v is the height on walls.
        normal: (N, 3) unit normals.
        rays: (N, 3) viewing directions.
        depth: (N,) distance, which fades detail finer than a pixel.

    Returns:
        Albedo (N, 3) and emitted light (N, 3), both linear.
    """
    fine = np.clip(14 * surface.scale / np.maximum(depth, 0.1), 0, 1)[:, None].astype(np.float32)
    spot = _Spot(surface, uv, normal, rays, fine, linear(surface.color), linear(surface.second))
    if surface.kind in _GLAZED:
        albedo, glow = _panes(surface, uv, normal, rays)
    elif surface.kind in _PRINTED:
        albedo, glow = _printed(spot)
    else:
        albedo = _PAINTERS[surface.kind](spot)
        glow = np.broadcast_to(spot.base * np.float32(surface.glow), albedo.shape)
    return albedo.astype(np.float32), glow.astype(np.float32)


def _plain(spot: _Spot) -> Array:
    return spot.plain


def _tiles(spot: _Spot) -> Array:
    scale = spot.surface.scale
    joint = _joint(spot.uv[:, 0], spot.uv[:, 1], scale, scale, 0.04)
    return spot.jointed(spot.plain, joint, spot.tone(np.floor(spot.uv / scale)), 0.86, 0.28)


def _courses(spot: _Spot) -> Array:
    """Bricks, or boards: rows of long cells, each row shifted against the last."""
    scale = spot.surface.scale
    long, flat, shift = (2.2 * scale, 0.75 * scale, 0.5) if spot.surface.kind == "bricks" else (6 * scale, scale, 0.37)
    row = np.floor(spot.uv[:, 1] / flat)
    shifted = spot.uv[:, 0] + row * shift * long
    tone = spot.tone(np.stack([np.floor(shifted / long), row], axis=1))
    return spot.jointed(spot.plain, _joint(shifted, spot.uv[:, 1], long, flat, 0.07), tone, 0.75, 0.5)


def _grass(spot: _Spot) -> Array:
    blades = noise.fractal(spot.uv * 9.0, spot.surface.seed + 3, 3)[:, None]
    patch = noise.fractal(spot.uv * 0.4, spot.surface.seed + 9, 2)[:, None]
    return spot.base * (1 + 0.5 * blades * spot.fine) + (spot.second - spot.base) * np.clip(patch, 0, 1) * 0.6


def _asphalt(spot: _Spot) -> Array:
    patch = noise.fractal(spot.uv * 0.35, spot.surface.seed + 9, 3)[:, None]
    speck = spot.tone(np.floor(spot.uv * 40)) - 0.5
    albedo = spot.base * (1 + 0.25 * patch + 0.3 * speck * spot.fine)
    if not spot.surface.lines:
        return albedo
    across = np.mod(spot.uv[:, 0], spot.surface.scale) - spot.surface.scale / 2
    return np.where((np.abs(across) < 0.06)[:, None], spot.second, albedo)


def _foliage(spot: _Spot) -> Array:
    where = np.concatenate([spot.uv * 6, spot.normal[:, 2:3] * 3], axis=1)
    return spot.base * (0.75 + 0.55 * noise.fractal(where, spot.surface.seed, 3)[:, None])


def _printed(spot: _Spot) -> tuple[Array, Array]:
    """Posters, or shelves full of goods: cells with a picture each, mostly muted, a few in strong colors."""
    scale, seed = spot.surface.scale, spot.surface.seed
    wide, tall = (scale, scale * 1.35) if spot.surface.kind == "posters" else (scale * 0.4, scale * 0.45)
    u, v = spot.uv.T
    cell = np.stack([np.floor(u / wide), np.floor(v / tall)], axis=1).astype(np.int64)
    tone = np.stack([noise.hashed(cell, seed + k) for k in range(3)], axis=1)
    strength = 0.25 + 0.6 * tone[:, :1] ** 3
    tone = tone.mean(axis=1, keepdims=True) * (1 - strength) + tone * strength
    detail = noise.hashed(np.floor(np.stack([u / wide * 3, v / tall * 4], axis=1)).astype(np.int64), seed + 5)[:, None]
    picture = linear((235, 235, 235)) * (0.06 + 0.94 * tone**1.6) * (0.35 + 0.9 * detail)
    frame = _joint(u, v, wide, tall, 0.1)[:, None] > 0.5
    glow = np.where(frame, np.float32(0), picture) * np.float32(0.5 * spot.surface.glow)
    return np.where(frame, spot.base, picture), glow


def _joint(u: Array, v: Array, wide: float, tall: float, share: float) -> Array:
    """1 on the joints of a grid of cells, 0 inside them."""
    across = np.mod(u / wide, 1)
    up = np.mod(v / tall, 1)
    width = share * min(wide, tall)
    inside = (across > width / wide) & (up > width / tall)
    return (~inside).astype(np.float32)


def _panes(surface: Surface, uv: Array, normal: Array, rays: Array) -> tuple[Array, Array]:
    """Walls with glass in them: a curtain wall, a facade with windows, or the side of a train."""
    base, second = linear(surface.color), linear(surface.second)
    u, v = uv[:, 0], uv[:, 1]
    scale = surface.scale
    upright = np.abs(normal[:, 2]) < 0.5
    if surface.kind == "glass":
        cell = np.stack([np.floor(u / scale), np.floor(v / (1.6 * scale))], axis=1).astype(np.int64)
        pane = _joint(u, v, scale, 1.6 * scale, 0.06) < 0.5
    elif surface.kind == "facade":
        cell = np.stack([np.floor(u / scale), np.floor(v / (1.15 * scale))], axis=1).astype(np.int64)
        across, up = np.mod(u / scale, 1), np.mod(v / (1.15 * scale), 1)
        pane = (across > 0.28) & (across < 0.72) & (up > 0.3) & (up < 0.82)
    else:
        cell = np.stack([np.floor(u / scale), np.zeros_like(u)], axis=1).astype(np.int64)
        across = np.mod(u / scale, 1)
        pane = (across > 0.12) & (across < 0.88) & (v > 1.5) & (v < 2.4)
    pane &= upright
    tone = noise.hashed(cell, surface.seed)[:, None]
    mirrored = np.clip(0.5 + 1.2 * (rays[:, 2] / np.linalg.norm(rays, axis=1)), 0, 1)[:, None]
    inside = noise.smooth(uv * np.array([1.7, 0.8], dtype=np.float32), surface.seed + 4)[:, None]
    glassy = second * (0.55 + 0.35 * tone + 0.4 * mirrored + 0.15 * inside)
    wall = np.broadcast_to(base, (len(u), 3)) * (1 + 0.12 * noise.fractal(uv * 2.0, surface.seed, 2)[:, None])
    if surface.kind == "livery":
        stripe = ((v > 0.95) & (v < 1.25))[:, None]
        wall = np.where(stripe, np.roll(base, 1) * 0.8, wall)
        door = (np.mod(u / scale, 4) < 0.9)[:, None]
        wall = np.where(door, wall * 0.6, wall)
    elif surface.kind == "facade":
        course = _joint(u + np.floor(v / 0.08) * 0.12, v, 0.24, 0.08, 0.1)[:, None]
        wall = wall * (1 - 0.25 * course)
    albedo = np.where(pane[:, None], glassy, wall)
    lit = (tone < 0.72) if surface.kind != "livery" else np.ones_like(tone, dtype=bool)
    glow = np.where(pane[:, None] & lit, glassy * (0.6 + 0.8 * inside), 0) * (0.6 * surface.glow)
    return albedo.astype(np.float32), glow.astype(np.float32)


_PAINTERS = {
    "plain": _plain,
    "tiles": _tiles,
    "bricks": _courses,
    "planks": _courses,
    "grass": _grass,
    "asphalt": _asphalt,
    "foliage": _foliage,
}
_GLAZED = ("glass", "facade", "livery")
_PRINTED = ("posters", "shelves")
