"""Describe a place: a fixed camera, solids with surfaces, and light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.miniperson.surfaces import Surface

Array = NDArray[np.float32]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A fixed pinhole camera.

    Args:
        position: place in meters; z is the height above the ground.
        yaw: viewing direction in degrees, 0 along +y, positive towards +x.
        pitch: degrees below the horizon.
        focal: focal length in pixels of the full frame.
        width: columns of the full frame.
        height: rows of the full frame.
    """

    position: Vector
    yaw: float
    pitch: float
    focal: float
    width: int = 1280
    height: int = 720

    def axes(self) -> NDArray[np.float64]:
        """Rows: right, down and forward in world coordinates."""
        yaw, pitch = np.deg2rad([self.yaw, self.pitch])
        forward = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: NDArray[np.floating]) -> tuple[Array, Array]:
        """Pixel position (N, 2) in the full frame and depth (N,) of world points (N, 3)."""
        local = (points - np.asarray(self.position)) @ self.axes().T
        depth = local[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixel = local[:, :2] / depth[:, None] * self.focal + np.array([self.width / 2, self.height / 2])
        return pixel.astype(np.float32), depth.astype(np.float32)

    def rays(self, columns: NDArray[np.floating], rows: NDArray[np.floating]) -> Array:
        """World directions (N, 3) through pixels, scaled so that one unit is one meter of depth."""
        x = (columns - self.width / 2) / self.focal
        y = (rows - self.height / 2) / self.focal
        right, down, forward = self.axes()
        return (x[:, None] * right + y[:, None] * down + forward).astype(np.float32)


@dataclass(frozen=True)
class Box:
    """A box standing on its ``base`` center, ``size`` along its own x, y, z, turned by ``yaw`` degrees."""

    base: Vector
    size: Vector
    surface: Surface
    yaw: float = 0.0


@dataclass(frozen=True)
class Column:
    """An upright cylinder on its ``base`` center."""

    base: Vector
    radius: float
    height: float
    surface: Surface


@dataclass(frozen=True)
class Ball:
    """An ellipsoid (tree crown, bush, lamp globe)."""

    center: Vector
    radii: Vector
    surface: Surface


Solid = Box | Column | Ball


@dataclass(frozen=True)
class Lamp:
    """A point light: place, color in linear light and strength in radiance at one meter."""

    position: Vector
    color: Vector
    strength: float


@dataclass(frozen=True)
class Light:
    """Light of a place in linear light.

    Args:
        sun: direction towards the sun (unnormalized).
        sun_colour: irradiance of the sun; zero by night.
        sky: irradiance from above.
        bounce: irradiance from below.
        air: color of the sky behind everything, at the horizon and overhead.
        lamps: point lights.
    """

    sun: Vector
    sun_colour: Vector
    sky: Vector
    bounce: Vector
    air: tuple[Vector, Vector]
    lamps: tuple[Lamp, ...] = ()


@dataclass(frozen=True)
class Place:
    """A scene: the ground's surface and the solids on it, with their light.

    Args:
        name: the manifest's value of ``scene``.
        ground: surface of the ground.
        solids: what stands on it.
        light: what lights it.
        setting: what a caption says of it, such as "in front of a brick wall"; empty where captions are not wanted.
    """

    name: str
    ground: Surface
    solids: tuple[Solid, ...]
    light: Light
    setting: str = ""
