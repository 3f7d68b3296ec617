"""The six cameras of the station, by night."""

from __future__ import annotations

from tools.miniperson import furniture as put
from tools.miniperson.scene import Box, Camera, Column, Place, Solid
from tools.miniperson.surfaces import Surface
from tools.miniperson.viewpoint import Sensor, Viewpoint, lamplight

_YELLOW = Surface("plain", (208, 174, 40))


def platform() -> Viewpoint:
    """Platform with a train alongside."""
    tubes, lamps = put.tube_lamps((-0.6,), (6.0, 11.0, 16.0, 21.0, 26.0), 3.6, (1.0, 0.94, 0.78), 11.0)
    train: list[Solid] = [
        Box((4.6, 20, 0.0), (2.6, 34, 3.4), Surface("livery", (178, 182, 188), (220, 208, 160), 2.1, 0.9, seed=2)),
        Box((2.55, 20, 0.0), (0.5, 40, 0.014), _YELLOW),
        Box((-4.2, 20, 0.0), (0.4, 40, 3.6), Surface("tiles", (150, 156, 154), (90, 94, 94), 0.45, seed=3)),
        Box((-3.9, 11.5, 1.1), (0.08, 2.6, 1.3), Surface("posters", (30, 32, 34), scale=1.1, glow=0.8, seed=4)),
        *[Column((-2.3, y, 0.0), 0.2, 3.6, Surface("plain", (70, 96, 104))) for y in (9.5, 15.5, 21.5)],
        *put.bench(-3.4, 8.2, 90, (70, 76, 90)),
        *tubes,
    ]
    return Viewpoint(
        1,
        Place(
            "platform",
            Surface("tiles", (128, 126, 122), (84, 82, 80), 0.6, seed=5),
            tuple(train),
            lamplight(lamps, (0.05, 0.05, 0.06), (0.025, 0.025, 0.025)),
        ),
        Camera((-0.6, 0, 3.0), 3, 11, 1200),
        Sensor(2.1, (1.06, 1.0, 0.82), blur=0.65, noise=0.03, quality=(55, 80)),
        (((0.9, 8), (1.4, 16)), ((-1.4, 8), (0.4, 14)), ((-1.6, 10.5), (1.6, 11)), ((1.6, 8.2), (-0.4, 9.4))),
        "warm tubes",
    )


def concourse() -> Viewpoint:
    """Concourse with ticket machines and signs."""
    spots, lamps = put.tube_lamps((-3.5, 0.5, 4.5), (8.0, 13.0), 4.4, (0.86, 0.95, 1.05), 9.0)
    concourse: list[Solid] = [
        Box((0, 18.5, 0.0), (40, 0.5, 5.2), Surface("tiles", (196, 198, 196), (140, 142, 142), 0.7, seed=6)),
        *put.machine(-4.4, 17.6, (170, 40, 36), 0.8, seed=3),
        *put.machine(-3.2, 17.6, (36, 66, 150), 0.8, seed=4),
        *put.machine(-2.0, 17.6, (36, 66, 150), 0.8, seed=5),
        Box((2.6, 18.1, 0.0), (4.2, 0.3, 2.7), Surface("shelves", (44, 40, 38), scale=0.7, glow=0.9, seed=8)),
        Box((0.6, 17.9, 3.0), (9, 0.2, 0.6), Surface("posters", (16, 30, 80), scale=0.55, glow=1.0, seed=9)),
        *[Column((x, 11.8, 0.0), 0.34, 4.4, Surface("tiles", (92, 110, 120), (60, 70, 76), 0.3)) for x in (-4.9, 4.7)],
        *put.bin_(3.0, 9.0, (90, 94, 98)),
        *spots,
    ]
    return Viewpoint(
        2,
        Place(
            "concourse",
            Surface("tiles", (164, 160, 154), (120, 116, 112), 0.9, seed=8),
            tuple(concourse),
            lamplight(lamps, (0.07, 0.08, 0.09), (0.05, 0.05, 0.05)),
        ),
        Camera((0, 0, 4.0), 0, 16, 1250),
        Sensor(1.7, (0.92, 1.0, 1.06), blur=0.5, noise=0.022, quality=(60, 85)),
        (((-4, 9), (4, 9.8)), ((-3, 12.8), (4, 12.2)), ((-1.4, 8), (1, 15)), ((2.6, 8.4), (-2, 13.4))),
        "cool tubes",
    )


def underpass() -> Viewpoint:
    """White-tiled underpass under greenish lamps."""
    strips, lamps = put.tube_lamps((0.0,), (5.5, 9.5, 13.5, 17.5), 2.75, (0.84, 1.02, 0.8), 6.5)
    tiled = Surface("tiles", (206, 210, 200), (130, 136, 126), 0.22, seed=9)
    tunnel: list[Solid] = [
        Box((-2.7, 15, 0.0), (0.3, 30, 2.9), tiled),
        Box((2.7, 15, 0.0), (0.3, 30, 2.9), tiled),
        Box((0, 15, 2.85), (6, 30, 0.2), Surface("plain", (150, 152, 146))),
        Box((0, 27, 0.0), (6, 0.3, 2.9), Surface("posters", (60, 62, 60), scale=1.2, glow=0.3, seed=3)),
        Box((-2.5, 10, 1.0), (0.1, 3.4, 1.2), Surface("posters", (40, 42, 40), scale=0.85, glow=0.25, seed=13)),
        Box((2.52, 13, 1.0), (0.1, 3.4, 1.2), Surface("posters", (40, 42, 40), scale=0.85, glow=0.25, seed=14)),
        Box((2.42, 15, 0.85), (0.06, 30, 0.06), Surface("plain", (150, 152, 154))),
        *strips,
    ]
    return Viewpoint(
        3,
        Place(
            "underpass",
            Surface("tiles", (108, 110, 102), (74, 76, 70), 0.4, seed=10),
            tuple(tunnel),
            lamplight(lamps, (0.08, 0.09, 0.075), (0.05, 0.055, 0.045)),
        ),
        Camera((0.9, 0, 2.4), -4, 8, 1200),
        Sensor(1.5, (0.94, 1.06, 0.86), blur=0.8, noise=0.026, quality=(50, 75)),
        (((-0.8, 8), (-1, 15)), ((0.8, 7.6), (0.4, 16)), ((-1.6, 8.6), (1.5, 10)), ((1.4, 9.8), (-1.3, 12))),
        "green tubes",
    )


def forecourt() -> Viewpoint:
    """Forecourt with taxis under sodium lamps."""
    posts = [put.lamp_post(x, y, 5.0, (1.25, 0.82, 0.36), 30.0) for x, y in ((-4.6, 11.4), (4.8, 11.8), (0.2, 20))]
    yard = Surface("asphalt", (84, 82, 82), (176, 172, 160), 4.2, seed=12, lines=True)
    forecourt: list[Solid] = [
        *[solid for solids, _ in posts for solid in solids],
        *put.car(-3.2, 14.4, 2, (212, 176, 40)),
        *put.car(2.6, 14.8, -2, (216, 182, 44)),
        *put.railing(-1.6, 7.4, 3.4, 4),
        *put.bollard(2.2, 9.8),
        *put.bollard(4.0, 9.8),
        Box((0, 24, 0.0), (60, 1.5, 12), Surface("facade", (90, 78, 70), (220, 190, 120), 3.0, 0.35, seed=19)),
        Box((-3, 23, 3.1), (8, 0.3, 0.9), Surface("posters", (20, 40, 100), scale=0.8, glow=1.2, seed=20)),
    ]
    return Viewpoint(
        4,
        Place(
            "forecourt",
            yard,
            tuple(forecourt),
            lamplight([lamp for _, lamp in posts], (0.03, 0.032, 0.045), (0.02, 0.018, 0.015), (0.02, 0.018, 0.022)),
        ),
        Camera((0, 0, 4.4), 1, 16, 1250),
        Sensor(2.3, (1.0, 0.96, 0.9), blur=0.7, noise=0.036, quality=(50, 78)),
        (((-4, 11), (4, 11.4)), ((-2.8, 8.8), (3.8, 8.6)), ((0.4, 8), (1.0, 12.6)), ((3.4, 8.4), (-2, 12.2))),
        "sodium lamps",
    )


def shelter() -> Viewpoint:
    """Outer platform with a glass shelter, in the dark."""
    posts = [put.lamp_post(x, y, 4.2, (0.98, 1.0, 1.12), 17.0) for x, y in ((-3.4, 9.4), (-3.4, 16.0), (3.6, 13.0))]
    shelter: list[Solid] = [
        *[solid for solids, _ in posts for solid in solids],
        Box((-2.4, 13.6, 2.4), (3.4, 1.8, 0.1), Surface("plain", (90, 94, 100))),
        Box((-2.4, 14.4, 0.2), (3.4, 0.05, 2.2), Surface("glass", (60, 64, 70), (46, 60, 70), 1.1)),
        *put.bench(-2.4, 13.9, 0, (60, 66, 72)),
        *put.machine(0.6, 14.6, (30, 90, 70), 1.0, seed=15),
        Box((3.4, 20, 0.0), (0.5, 40, 0.014), _YELLOW),
        Box((6.4, 20, -0.01), (4.4, 40, 0.012), Surface("asphalt", (30, 30, 32))),
        *put.railing(-0.4, 17.5, 9, 0, (80, 84, 90)),
        Box((0, 40, 0.0), (80, 3, 9), Surface("facade", (24, 26, 34), (230, 190, 110), 4.0, 0.3, seed=23)),
    ]
    return Viewpoint(
        5,
        Place(
            "shelter",
            Surface("tiles", (102, 104, 108), (70, 72, 76), 0.5, seed=14),
            tuple(shelter),
            lamplight([lamp for _, lamp in posts], (0.03, 0.035, 0.05), (0.02, 0.02, 0.024)),
        ),
        Camera((0.5, 0, 3.3), -1, 12.5, 1200),
        Sensor(2.2, (0.9, 0.97, 1.14), blur=0.6, noise=0.034, quality=(55, 80)),
        (((-2.6, 9.6), (2.6, 9.8)), ((1.6, 8), (2.2, 15)), ((-1, 8), (0.6, 12.6)), ((-2.8, 11.6), (2.2, 12.2))),
        "cold lamps",
    )


def ticket_gates() -> Viewpoint:
    """Ticket gates below warm spots."""
    spots, lamps = put.tube_lamps((-2.6, 0.6, 3.8), (7.5, 12.5), 3.8, (1.1, 0.92, 0.8), 8.5)
    gate, green = Surface("plain", (158, 160, 166)), Surface("plain", (60, 220, 120), glow=0.9)
    gates: list[Solid] = [
        *[Box((x, 10.6, 0.0), (0.28, 1.7, 1.0), gate) for x in (-3.4, -2.2, 3.0, 4.2)],
        *[Box((x, 9.8, 0.98), (0.26, 0.3, 0.06), green) for x in (-3.4, -2.2, 3.0, 4.2)],
        Box((0, 17.5, 0.0), (30, 0.5, 4.2), Surface("bricks", (120, 66, 54), (80, 60, 54), 0.3, seed=21)),
        Box((-2, 17.1, 0.0), (3.4, 0.3, 3.0), Surface("glass", (50, 44, 40), (210, 180, 130), 1.1, 0.6, seed=22)),
        Box((3.4, 17.1, 1.2), (3.0, 0.2, 1.6), Surface("posters", (24, 24, 26), scale=1.4, glow=0.9, seed=24)),
        Box((0.4, 14.6, 3.0), (6, 0.2, 0.6), Surface("posters", (200, 150, 20), scale=0.6, glow=0.7, seed=25)),
        *spots,
    ]
    return Viewpoint(
        6,
        Place(
            "ticket gates",
            Surface("tiles", (112, 98, 88), (76, 66, 60), 0.45, seed=16),
            tuple(gates),
            lamplight(lamps, (0.06, 0.055, 0.05), (0.04, 0.034, 0.03)),
        ),
        Camera((0.3, 0, 3.4), 0, 13.5, 1250),
        Sensor(1.75, (1.1, 0.96, 0.92), blur=0.5, noise=0.022, quality=(60, 85)),
        (((-1.2, 8), (-0.6, 14.5)), ((1.4, 8), (0.8, 14.5)), ((-1.8, 8.4), (2.2, 8.6)), ((-3, 13), (3.4, 13.6))),
        "warm spots",
    )
