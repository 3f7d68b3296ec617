"""The six cameras of the campus, by day."""

from __future__ import annotations

from tools.miniperson import furniture as put
from tools.miniperson.scene import Box, Camera, Column, Place, Solid
from tools.miniperson.surfaces import Surface
from tools.miniperson.viewpoint import Sensor, Viewpoint, daylight


def brick_hall() -> Viewpoint:
    """Path along a brick hall with a bench and shrubs."""
    brick = Surface("facade", (146, 84, 62), (120, 140, 155), 2.6, seed=1)
    hall: list[Solid] = [
        Box((-2.0, 19.0, 0.0), (40, 2.0, 11.0), brick),
        Box((0.0, 17.6, 0.0), (40, 0.9, 0.45), Surface("grass", (70, 92, 44), (96, 92, 50), seed=2)),
        Box((3.4, 17.9, 0.0), (2.0, 0.4, 2.5), Surface("glass", (200, 200, 196), (60, 74, 84), 0.9)),
        *put.bench(-3.6, 15.6, 0.0),
        *put.hedge(-1.0, 6.7, 3.2, 0.0, 0.7, 3),
        *put.bin_(1.9, 15.4),
        *put.tree(5.6, 13.2, 6.0, 1),
    ]
    return Viewpoint(
        1,
        Place(
            "brick hall",
            Surface("tiles", (168, 162, 150), (110, 104, 96), 0.6, seed=1),
            tuple(hall),
            daylight(150, 42, (1.15, 1.05, 0.9), (0.42, 0.48, 0.58)),
        ),
        Camera((0, 0, 3.2), 0, 13, 1250),
        Sensor(1.08, (1.04, 1.0, 0.95), blur=0.5, contrast=1.1),
        (((-4, 9), (4, 9.6)), ((-4.5, 13), (4.5, 12)), ((-1, 8), (2, 15)), ((-3, 7.6), (3, 7.7))),
        "sun",
    )


def lawn() -> Viewpoint:
    """Gravel path over a lawn with trees."""
    grass = Surface("grass", (86, 112, 52), (128, 128, 66), seed=4)
    lawn: list[Solid] = [
        Box((0.6, 14, 0.0), (3.2, 40, 0.012), Surface("asphalt", (176, 158, 128), seed=5)),
        *[
            solid
            for k, (x, y) in enumerate([(-3.6, 12.5), (4.6, 14), (-6.5, 19), (7.4, 21), (-2.6, 24)])
            for solid in put.tree(x, y, 6.5 + k % 2, 20 + k, (74, 108, 44))
        ],
        *put.bench(3.3, 11.5, 70, (96, 100, 92)),
        *put.hedge(-6, 28, 30, 0, 2.4, 8),
        Box((10, 42, 0), (30, 4, 13), Surface("facade", (186, 178, 160), (92, 108, 120), 3.2, seed=7)),
        *put.bollard(2.4, 6.9),
        *put.bollard(-1.2, 6.9),
    ]
    return Viewpoint(
        2,
        Place("lawn", grass, tuple(lawn), daylight(-70, 35, (1.25, 1.12, 0.88), (0.38, 0.47, 0.6), (0.12, 0.16, 0.07))),
        Camera((0.4, 0, 2.7), 0, 9.5, 1300),
        Sensor(1.05, (0.98, 1.04, 0.94), blur=0.6, contrast=1.06),
        (((0.2, 8), (1.0, 18)), ((-3, 9), (3.4, 10)), ((1.4, 9.5), (0, 16)), ((-0.5, 7.6), (2, 8.2))),
        "sun",
    )


def glass_entrance() -> Viewpoint:
    """Glass entrance with columns, overcast."""
    white = Surface("plain", (214, 212, 206), seed=6)
    entrance: list[Solid] = [
        Box((0, 17, 0.0), (40, 1.0, 8), Surface("glass", (176, 180, 182), (84, 112, 122), 1.5, seed=3)),
        Box((0, 14.6, 4.2), (40, 5.0, 0.6), white),
        *[Column((x, 12.6, 0.0), 0.28, 4.2, white) for x in (-5.2, -1.6, 2.0, 5.6)],
        Box((0, 15.2, 0.0), (9, 2.6, 0.16), Surface("tiles", (150, 150, 148), (110, 110, 108), 0.8)),
        *put.planter(-3.6, 7.4, 1.0, 4),
        *put.railing(4.1, 10.4, 3.0, 90),
    ]
    return Viewpoint(
        3,
        Place(
            "glass entrance",
            Surface("tiles", (142, 144, 146), (98, 100, 102), 1.1, seed=7),
            tuple(entrance),
            daylight(200, 62, (0.35, 0.36, 0.38), (0.85, 0.9, 0.98), (0.25, 0.25, 0.25)),
        ),
        Camera((0, 0, 4.2), -4, 17, 1350),
        Sensor(0.92, (0.95, 1.0, 1.07), blur=0.45, saturation=0.9),
        (((-4, 10.2), (3.4, 10.4)), ((-1.2, 8), (0.4, 14)), ((-3.6, 11.2), (3, 14)), ((-2.2, 8.4), (3, 9))),
        "overcast",
    )


def car_park() -> Viewpoint:
    """Car park with bicycles."""
    parking: list[Solid] = [
        *put.car(-4.8, 14.2, 4, (150, 24, 28)),
        *put.car(1.6, 15.0, -2, (206, 208, 210)),
        *put.car(7.2, 15.4, 3, (40, 64, 110), van=True),
        *put.bicycles(-3.4, 7.4, 5, 0),
        Box((0, 24, 0), (60, 1.0, 2.6), Surface("bricks", (176, 138, 96), (120, 104, 84), 0.28, seed=2)),
        *put.tree(-7, 27, 8, 31, (84, 116, 60)),
        *put.tree(3, 28, 8, 32, (70, 104, 52)),
        *put.bollard(3.2, 10.6, (180, 150, 30)),
        *put.bollard(0.9, 10.6, (180, 150, 30)),
    ]
    return Viewpoint(
        4,
        Place(
            "car park",
            Surface("asphalt", (92, 94, 98), (214, 214, 208), 2.6, seed=9, lines=True),
            tuple(parking),
            daylight(100, 30, (1.3, 1.08, 0.78), (0.34, 0.42, 0.56)),
        ),
        Camera((0.5, 0, 3.6), 2, 13.5, 1200),
        Sensor(1.05, (1.07, 1.0, 0.9), blur=0.7, noise=0.014, quality=(60, 85)),
        (((-4.2, 11.8), (4.8, 12.2)), ((-2.6, 9.4), (4, 9.2)), ((0.4, 8), (2.2, 12.6)), ((3.6, 8.6), (-1, 12.4))),
        "low sun",
    )


def arcade() -> Viewpoint:
    """Arcade of red pillars in the shade."""
    clay = Surface("bricks", (150, 92, 70), (104, 80, 66), 0.3, seed=5)
    arcade: list[Solid] = [
        *[Box((x, y, 0.0), (0.55, 0.55, 3.4), clay) for x in (-3.1, 3.1) for y in (8.4, 12.4, 16.4, 20.4)],
        Box((0, 15, 3.4), (8, 16, 0.4), Surface("planks", (176, 150, 116), (120, 100, 80), 0.25)),
        Box((-5.4, 15, 0.0), (0.4, 22, 3.4), Surface("posters", (196, 186, 164), scale=1.3, seed=9)),
        Box((0, 26, 0.0), (14, 0.5, 4), Surface("glass", (120, 74, 50), (70, 84, 84), 1.1, seed=5)),
        *put.bench(-4.4, 11.4, 90),
        *put.bin_(2.4, 10.4, (70, 74, 78)),
    ]
    return Viewpoint(
        5,
        Place(
            "arcade",
            Surface("tiles", (158, 116, 92), (104, 84, 70), 0.35, seed=11),
            tuple(arcade),
            daylight(60, 48, (1.2, 1.1, 0.95), (0.36, 0.36, 0.38), (0.2, 0.15, 0.12)),
        ),
        Camera((0.3, 0, 2.6), -1, 8, 1150),
        Sensor(1.3, (1.03, 0.99, 0.98), black=0.01, blur=0.55, noise=0.018),
        (((-1, 8), (1, 16)), ((1.2, 7.6), (-1.4, 13)), ((-2.2, 9.8), (2.2, 10.6)), ((-1.8, 11.4), (2, 14.4))),
        "shade",
    )


def square() -> Viewpoint:
    """Square with steps, planters and a railing, seen from high up."""
    stone = Surface("tiles", (190, 186, 176), (150, 146, 138), 0.9, seed=13)
    square: list[Solid] = [
        *[Box((0, 18.6 + 0.2 * k, 0.0), (30, 13 - 0.4 * k, 0.16 * (k + 1)), stone) for k in range(4)],
        *put.railing(-2.6, 11.2, 1.6, 84),
        *put.planter(-3.4, 9.2, 1.2, 6),
        *put.planter(4.2, 9.8, 1.2, 7),
        Box((0, 26, 0.0), (50, 1, 10), Surface("facade", (206, 198, 182), (70, 84, 98), 2.9, seed=17)),
        *put.bench(2.2, 11.4, -6, (150, 148, 140)),
    ]
    return Viewpoint(
        6,
        Place(
            "square",
            Surface("tiles", (172, 170, 164), (128, 126, 120), 0.5, seed=15),
            tuple(square),
            daylight(-140, 55, (1.1, 1.05, 0.98), (0.45, 0.5, 0.6), (0.22, 0.21, 0.19)),
        ),
        Camera((-0.4, 0, 5.4), 1, 25, 1300),
        Sensor(0.95, (1.0, 0.98, 1.04), blur=0.5, contrast=1.04),
        (((-3.8, 8.2), (3.6, 8)), ((-2.2, 10.6), (3.6, 10.4)), ((0, 8), (-1.4, 11.4)), ((2.4, 7.8), (0.6, 11.4))),
        "sun",
    )
