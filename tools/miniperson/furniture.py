"""Things that stand about: benches, trees, cars, railings, machines; each is a list of solids at a place."""

from __future__ import annotations

import numpy as np

from tools.miniperson.scene import Ball, Box, Column, Lamp, Solid, Vector
from tools.miniperson.surfaces import Surface

Rgb = tuple[int, int, int]
_METAL = Surface("plain", (92, 96, 100))
_DARK = Surface("plain", (34, 36, 38))


def _turned(x: float, y: float, yaw: float, along: float, across: float) -> tuple[float, float]:
    angle = np.deg2rad(yaw)
    return x + along * float(np.cos(angle)) - across * float(np.sin(angle)), (
        y + along * float(np.sin(angle)) + across * float(np.cos(angle))
    )


def bench(x: float, y: float, yaw: float = 0.0, color: Rgb = (120, 82, 50)) -> list[Solid]:
    """A bench 1.8 m long with a back rest."""
    wood = Surface("planks", color, (40, 30, 20), 0.12)
    back = _turned(x, y, yaw, 0, 0.22)
    legs = [_turned(x, y, yaw, along, 0.0) for along in (-0.7, 0.7)]
    return [
        Box((x, y, 0.42), (1.8, 0.45, 0.06), wood, yaw),
        Box((*back, 0.5), (1.8, 0.05, 0.42), wood, yaw),
        *[Box((*leg, 0.0), (0.07, 0.42, 0.42), _DARK, yaw) for leg in legs],
    ]


def tree(x: float, y: float, height: float = 6.0, seed: int = 0, color: Rgb = (62, 98, 40)) -> list[Solid]:
    """A broad-leaved tree."""
    rng = np.random.default_rng([11, seed])
    trunk = Column((x, y, 0.0), 0.14 + 0.02 * height / 6, height * 0.6, Surface("plain", (92, 74, 58), seed=seed))
    leaves = Surface("foliage", color, seed=seed)
    crowns: list[Solid] = []
    for _ in range(5):
        dx, dy, dz = rng.uniform(-1, 1, 3) * [1.1, 1.1, 0.8]
        radius = rng.uniform(0.9, 1.5)
        crowns.append(Ball((x + dx, y + dy, height * 0.72 + dz), (radius, radius, radius * 0.85), leaves))
    return [trunk, *crowns]


def hedge(x: float, y: float, length: float, yaw: float = 0.0, height: float = 0.9, seed: int = 1) -> list[Solid]:
    """A clipped hedge with an uneven top."""
    leaves = Surface("foliage", (48, 84, 38), seed=seed)
    body: list[Solid] = [Box((x, y, 0.0), (length, 0.6, height - 0.1), leaves, yaw)]
    for step in np.arange(-length / 2 + 0.3, length / 2, 0.55):
        body.append(Ball((*_turned(x, y, yaw, float(step), 0.0), height - 0.15), (0.42, 0.4, 0.3), leaves))
    return body


def car(x: float, y: float, yaw: float, color: Rgb, van: bool = False) -> list[Solid]:
    """A parked car; ``yaw`` 0 shows its side to a camera that looks along +y."""
    paint = Surface("plain", color)
    glass = Surface("glass", (30, 34, 40), (90, 110, 125), 1.6)
    wheels: list[Solid] = []
    for along in (-1.35, 1.35):
        for across in (-0.82, 0.82):
            wheels.append(Ball((*_turned(x, y, yaw, along, across), 0.33), (0.33, 0.33, 0.33), _DARK))
    if van:
        shell = [Box((x, y, 0.35), (4.9, 1.85, 1.7), paint, yaw)]
        window = [Box((*_turned(x, y, yaw, 1.5, 0.0), 1.25), (1.6, 1.87, 0.6), glass, yaw)]
        return [*shell, *window, *wheels]
    return [
        Box((x, y, 0.28), (4.3, 1.75, 0.62), paint, yaw),
        Box((*_turned(x, y, yaw, -0.2, 0.0), 0.9), (2.3, 1.55, 0.5), glass, yaw),
        Box((*_turned(x, y, yaw, -0.25, 0.0), 1.38), (1.9, 1.5, 0.06), paint, yaw),
        *wheels,
    ]


def railing(x: float, y: float, length: float, yaw: float = 0.0, color: Rgb = (120, 124, 128)) -> list[Solid]:
    """A hand rail with two bars and posts, 1.05 m high."""
    steel = Surface("plain", color)
    bars: list[Solid] = [Box((x, y, at), (length, 0.05, 0.05), steel, yaw) for at in (0.45, 1.0)]
    posts = [
        Box((*_turned(x, y, yaw, float(along), 0.0), 0.0), (0.05, 0.05, 1.05), steel, yaw)
        for along in np.linspace(-length / 2, length / 2, max(2, int(length / 1.4) + 1))
    ]
    return [*bars, *posts]


def bollard(x: float, y: float, color: Rgb = (60, 62, 64)) -> list[Solid]:
    """A post 0.9 m high with a light band."""
    return [
        Column((x, y, 0.0), 0.09, 0.9, Surface("plain", color)),
        Column((x, y, 0.7), 0.095, 0.1, Surface("plain", (210, 210, 200))),
    ]


def planter(x: float, y: float, size: float = 1.1, seed: int = 0) -> list[Solid]:
    """A concrete trough with a shrub."""
    return [
        Box((x, y, 0.0), (size, size, 0.5), Surface("plain", (150, 148, 142), seed=seed)),
        Ball((x, y, 0.75), (size * 0.5, size * 0.5, 0.45), Surface("foliage", (70, 104, 48), seed=seed + 2)),
    ]


def bin_(x: float, y: float, color: Rgb = (40, 70, 48)) -> list[Solid]:
    """A litter bin."""
    return [Column((x, y, 0.0), 0.24, 0.85, Surface("plain", color)), Column((x, y, 0.85), 0.26, 0.08, _DARK)]


def bicycles(x: float, y: float, count: int, yaw: float = 0.0) -> list[Solid]:
    """Bicycle stands with simple bicycles (wheels and frames as thin plates)."""
    colors: list[Rgb] = [(150, 30, 30), (30, 60, 130), (40, 40, 44), (190, 190, 190), (40, 110, 80)]
    solids: list[Solid] = []
    for number in range(count):
        at = _turned(x, y, yaw, number * 0.65, 0.0)
        frame = Surface("plain", colors[number % len(colors)])
        for across in (-0.52, 0.52):
            solids.append(Ball((*_turned(*at, yaw, 0.0, across), 0.33), (0.03, 0.33, 0.33), _DARK))
        solids.append(Box((*at, 0.5), (0.04, 1.0, 0.06), frame, yaw))
        solids.append(Box((*_turned(*at, yaw, 0, 0.4), 0.5), (0.04, 0.06, 0.5), frame, yaw))
        solids.append(Box((*_turned(*at, yaw, 0, -0.25), 0.5), (0.1, 0.22, 0.42), frame, yaw))
    return solids


def machine(x: float, y: float, color: Rgb, glow: float = 0.5, seed: int = 3) -> list[Solid]:
    """A ticket or vending machine with a glowing front towards -y."""
    return [
        Box((x, y, 0.0), (0.95, 0.7, 1.85), Surface("plain", color)),
        Box(
            (x, y - 0.36, 0.75), (0.75, 0.03, 0.95), Surface("shelves", (20, 22, 24), scale=0.32, glow=glow, seed=seed)
        ),
    ]


def lamp_post(x: float, y: float, height: float, color: Vector, strength: float) -> tuple[list[Solid], Lamp]:
    """A street lamp and its light."""
    shine = Surface("plain", (255, 250, 235), glow=2.5)
    solids: list[Solid] = [Column((x, y, 0.0), 0.07, height, _METAL), Ball((x, y, height), (0.22, 0.22, 0.14), shine)]
    return solids, Lamp((x, y, height + 0.2), color, strength)


def tube_lamps(
    xs: tuple[float, ...], ys: tuple[float, ...], height: float, color: Vector, strength: float
) -> tuple[list[Solid], list[Lamp]]:
    """Ceiling lamps in a grid, each a glowing strip along y."""
    shine = Surface("plain", (255, 252, 240), glow=2.0)
    solids: list[Solid] = [Box((x, y, height), (0.18, 1.3, 0.06), shine) for x in xs for y in ys]
    return solids, [Lamp((x, y, height), color, strength) for x in xs for y in ys]
