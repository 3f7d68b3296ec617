"""Cameras drawn at random: scenes for corpora that must share no camera and no background with MiniPerson."""

from __future__ import annotations

from functools import cache

import numpy as np

from tools.miniperson import furniture as put
from tools.miniperson.scene import Box, Camera, Column, Lamp, Light, Place, Solid, Vector
from tools.miniperson.surfaces import Surface
from tools.miniperson.viewpoint import Lane, Sensor, Viewpoint

Rng = np.random.Generator
_STREAM = 17


@cache
def world_viewpoints(seed: int, count: int = 16) -> tuple[Viewpoint, ...]:
    """Draw cameras, each in a place of its own.

    Args:
        seed: another seed, other places.
        count: how many.

    Returns:
        The viewpoints, numbered from 1.
    """
    return tuple(_viewpoint(np.random.default_rng([seed, _STREAM, number]), number + 1) for number in range(count))


# What towns are built of: concrete, slate, sandstone, brick, clay, timber, plaster, painted metal.
_BUILT = (
    (150, 150, 148),
    (104, 108, 112),
    (186, 168, 136),
    (142, 86, 66),
    (168, 120, 92),
    (128, 98, 70),
    (206, 196, 176),
    (196, 206, 204),
    (120, 134, 140),
    (174, 160, 158),
)
_GROUND = {"tiles": "paving", "asphalt": "asphalt", "planks": "wooden boards", "bricks": "bricks", "grass": "grass"}
_WALL = {
    "facade": "a building",
    "bricks": "a brick wall",
    "planks": "a wooden wall",
    "glass": "a glass front",
    "plain": "a plain wall",
    "tiles": "a tiled wall",
}
_PAINTED = ((160, 44, 40), (46, 78, 128), (52, 104, 74), (206, 170, 60), (70, 72, 76), (206, 206, 202), (120, 84, 56))


def _near(rng: Rng, colors: tuple[tuple[int, int, int], ...]) -> tuple[int, int, int]:
    """A color near one of ``colors``, lighter or darker as a whole."""
    base = np.asarray(colors[int(rng.integers(len(colors)))], dtype=np.float64)
    red, green, blue = np.clip(base * rng.uniform(0.7, 1.15) + rng.normal(0, 9, 3), 10, 240).astype(int)
    return int(red), int(green), int(blue)


def _surface(rng: Rng, kinds: list[str], scale: tuple[float, float]) -> Surface:
    kind = str(rng.choice(kinds))
    if kind == "grass":
        return Surface(
            "grass", _near(rng, ((84, 112, 52),)), _near(rng, ((124, 124, 66),)), seed=int(rng.integers(9999))
        )
    color = _near(rng, _BUILT)
    darker = rng.uniform(0.5, 0.75)
    joints = (int(color[0] * darker), int(color[1] * darker), int(color[2] * darker))
    if kind in ("glass", "facade"):
        joints = _near(rng, ((86, 108, 120), (60, 70, 78), (104, 116, 112)))
    return Surface(kind, color, joints, float(rng.uniform(*scale)), seed=int(rng.integers(9999)))


def _viewpoint(rng: Rng, camid: int) -> Viewpoint:
    night = rng.random() < 0.3
    height = float(rng.uniform(2.2, 5.6))
    focal = float(rng.uniform(1000, 1500))
    # Aimed so that a person 11 m away stands in the middle of the frame.
    pitch = float(np.rad2deg(np.arctan2(height - 1.0, 11.0)) + rng.uniform(-1.5, 1.5))
    ground = _surface(rng, ["tiles", "tiles", "asphalt", "planks", "bricks", "grass"], (0.3, 1.1))
    walls = _walls(rng)
    solids = walls + _things(rng)
    light, lamp_solids = _lamps(rng) if night else (_daylight(rng), [])
    setting = f"on {_GROUND[ground.kind]} in front of {_WALL[walls[0].surface.kind]}"
    place = Place(f"world {camid}", ground, tuple(solids + lamp_solids), light, setting)
    cast = np.exp(rng.normal(0, 0.05, 3))
    sensor = Sensor(
        gain=float(rng.uniform(1.8, 2.4) if night else rng.uniform(0.85, 1.15)),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        black=float(rng.uniform(0, 0.015)),
        contrast=float(rng.uniform(0.88, 1.12)),
        saturation=float(rng.uniform(0.75, 1.15)),
        blur=float(rng.uniform(0.35, 0.85)),
        noise=float(rng.uniform(0.012, 0.02) if night else rng.uniform(0.004, 0.012)),
        quality=(55, 90),
    )
    camera = Camera((float(rng.uniform(-0.6, 0.6)), 0.0, height), float(rng.uniform(-3, 3)), pitch, focal)
    lit = "at night" if night else "in bright sunlight" if max(light.sun_colour) > 0.75 else "under a grey sky"
    return Viewpoint(camid, place, camera, sensor, tuple(_lane(rng) for _ in range(5)), lit)


def _walls(rng: Rng) -> list[Solid]:
    kinds = ["facade", "facade", "bricks", "planks", "glass", "plain", "tiles"]
    far = float(rng.uniform(15, 26))
    scale = (0.25, 0.5) if rng.random() < 0.4 else (1.0, 3.2)
    walls: list[Solid] = [
        Box((float(rng.uniform(-3, 3)), far, 0.0), (60, 1.0, float(rng.uniform(2.4, 11))), _surface(rng, kinds, scale)),
    ]
    if rng.random() < 0.6:
        front = _surface(rng, ["glass", "shelves", "posters", "planks"], (0.5, 1.4))
        walls.append(Box((float(rng.uniform(-4, 4)), far - 0.7, 0.0), (float(rng.uniform(2, 6)), 0.5, 2.7), front))
    if rng.random() < 0.45:
        side = float(rng.choice([-1, 1]) * rng.uniform(4.4, 6.5))
        walls.append(Box((side, 16, 0.0), (0.5, 26, float(rng.uniform(2.4, 5))), _surface(rng, kinds, scale)))
    if rng.random() < 0.35:
        strip = _surface(rng, ["grass", "asphalt", "tiles"], (0.4, 2.0))
        walls.append(Box((float(rng.uniform(-5, 5)), 16, 0.0), (float(rng.uniform(1.5, 5)), 30, 0.012), strip))
    return walls


def _things(rng: Rng) -> list[Solid]:
    """Furniture, some of it on this side of the lanes so that it hides people in part."""
    solids: list[Solid] = []
    for _ in range(int(rng.integers(3, 7))):
        near = rng.random() < 0.3
        x = float(rng.uniform(-4.5, 4.5))
        y = float(rng.uniform(6.6, 8.0)) if near else float(rng.uniform(11.5, 17))
        turn = float(rng.uniform(-90, 90))
        seed = int(rng.integers(1000))
        kind = int(rng.integers(9))
        if kind == 0:
            solids += put.bench(x, y, turn, _near(rng, _PAINTED))
        elif kind == 1 and not near:
            solids += put.tree(
                x, y, float(rng.uniform(4.5, 8)), seed, _near(rng, ((66, 100, 42), (88, 112, 50), (120, 96, 44)))
            )
        elif kind == 2:
            solids += put.hedge(x, y, float(rng.uniform(1.5, 4)), 0.0, float(rng.uniform(0.5, 0.9)), seed)
        elif kind == 3 and not near:
            solids += put.car(x, y + 2, float(rng.uniform(-12, 12)), _near(rng, _PAINTED), bool(rng.random() < 0.3))
        elif kind == 4:
            solids += put.railing(x, y, float(rng.uniform(1.5, 4)), turn, _near(rng, _PAINTED[4:6]))
        elif kind == 5:
            solids += put.bollard(x, y, (paint := _near(rng, _PAINTED))) + put.bollard(x + 1.6, y, paint)
        elif kind == 6:
            solids += put.planter(x, y, float(rng.uniform(0.7, 1.3)), seed)
        elif kind == 7:
            radius, tall = float(rng.uniform(0.15, 0.4)), float(rng.uniform(2.8, 4.5))
            solids.append(Column((x, y, 0.0), radius, tall, _surface(rng, ["plain", "tiles"], (0.2, 0.5))))
        else:
            solids += put.bin_(x, y, _near(rng, _PAINTED))
    return solids


def _daylight(rng: Rng) -> Light:
    azimuth, height = np.deg2rad([rng.uniform(-180, 180), rng.uniform(22, 65)])
    sun = (float(np.sin(azimuth) * np.cos(height)), float(np.cos(azimuth) * np.cos(height)), float(np.sin(height)))
    strength = float(rng.uniform(0.2, 1.3))
    warm = float(rng.uniform(0.7, 1.0))
    sky = 0.95 - 0.42 * strength
    return Light(
        sun,
        (strength, strength * (0.8 + 0.2 * warm), strength * warm),
        (sky * 0.9, sky * 0.96, sky),
        (0.18, 0.17, 0.15),
        ((0.72, 0.76, 0.82), (0.4, 0.54, 0.78)),
    )


def _lamps(rng: Rng) -> tuple[Light, list[Solid]]:
    tint = np.exp(rng.normal(0, 0.08, 3))
    color: Vector = (float(tint[0]), float(tint[1]), float(tint[2] * rng.uniform(0.7, 1.05)))
    places = [(float(rng.uniform(-4, 4)), float(rng.uniform(6.5, 18))) for _ in range(int(rng.integers(3, 6)))]
    high = float(rng.uniform(3.4, 5.0))
    glow = Surface("plain", (255, 250, 238), glow=2.0)
    solids: list[Solid] = [Box((x, y, high), (0.3, 1.0, 0.08), glow) for x, y in places]
    lamps = tuple(Lamp((x, y, high), color, float(rng.uniform(9, 17))) for x, y in places)
    ambient = float(rng.uniform(0.04, 0.08))
    dark = (0.012, 0.013, 0.02)
    return Light((0, 0, 1), (0, 0, 0), (ambient,) * 3, (ambient / 2,) * 3, (dark, dark), lamps), solids


def _lane(rng: Rng) -> Lane:
    if rng.random() < 0.55:  # across the view
        start, end = (-rng.uniform(2, 3.2), rng.uniform(8.4, 11.5)), (rng.uniform(2, 3.2), rng.uniform(8.4, 11.5))
    else:  # along it
        start, end = (rng.uniform(-1.8, 1.8), rng.uniform(8, 9)), (rng.uniform(-1.8, 1.8), rng.uniform(12, 15))
    return (float(start[0]), float(start[1])), (float(end[0]), float(end[1]))
