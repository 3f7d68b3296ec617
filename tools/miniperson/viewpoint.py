"""Cameras at work: where they look, where people pass, how their pictures come out, and the light of their places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.miniperson.scene import Camera, Lamp, Light, Place, Vector

Lane = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Sensor:
    """Parameters by which a camera turns light into a picture.

    Args:
        gain: exposure.
        cast: gain of red, green and blue.
        black: light added everywhere (flare, fog), linear.
        contrast: exponent around mid grey, 1 neutral.
        saturation: 1 neutral, 0 grey.
        blur: standard deviation of the lens blur in pixels of a 128 pixel high picture.
        noise: standard deviation of the noise at mid grey, of 1.
        quality: range of the JPEG quality.
    """

    gain: float = 1.0
    cast: Vector = (1.0, 1.0, 1.0)
    black: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    blur: float = 0.5
    noise: float = 0.012
    quality: tuple[int, int] = (70, 92)


@dataclass(frozen=True)
class Viewpoint:
    """A camera at work: where it looks, where people pass, and how its pictures come out.

    Args:
        camid: number of the camera within its domain, from 1.
        place: the scene.
        camera: the pinhole camera.
        sensor: its picture.
        lanes: ground segments people walk along, in either direction.
        light_name: day or night lighting in words.
    """

    camid: int
    place: Place
    camera: Camera
    sensor: Sensor
    lanes: tuple[Lane, ...]
    light_name: str


def daylight(azimuth: float, height: float, color: Vector, sky: Vector, bounce: Vector = (0.16, 0.15, 0.13)) -> Light:
    """Daylight; azimuth 0 is from behind the scene (+y), 90 from the right."""
    angle, up = np.deg2rad([azimuth, height])
    sun = (float(np.sin(angle) * np.cos(up)), float(np.cos(angle) * np.cos(up)), float(np.sin(up)))
    return Light(sun, color, sky, bounce, ((0.72, 0.78, 0.85), (0.35, 0.52, 0.82)))


def lamplight(lamps: list[Lamp], sky: Vector, bounce: Vector, air: Vector = (0.01, 0.012, 0.02)) -> Light:
    """Night: lamps, and a little light from everywhere."""
    return Light((0, 0, 1), (0, 0, 0), sky, bounce, (air, (0.004, 0.005, 0.012)), tuple(lamps))
