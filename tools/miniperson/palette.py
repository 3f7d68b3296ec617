"""Color names of garments, hair and skin, and the shades that bear them."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

# sRGB centers in [0, 255].
GARMENT = {
    "black": (28, 28, 31),
    "white": (226, 226, 222),
    "grey": (126, 128, 131),
    "red": (176, 32, 38),
    "orange": (221, 110, 32),
    "yellow": (224, 192, 60),
    "green": (46, 110, 62),
    "blue": (44, 92, 176),
    "navy": (32, 42, 84),
    "teal": (48, 138, 142),
    "purple": (98, 56, 128),
    "pink": (222, 132, 160),
    "brown": (98, 66, 44),
    "beige": (196, 176, 142),
}
HAIR = {
    "black": (24, 20, 19),
    "brown": (72, 46, 30),
    "blond": (186, 150, 96),
    "red": (128, 58, 30),
    "grey": (142, 140, 138),
    "white": (206, 204, 198),
}
SKIN = {
    "pale": (232, 198, 178),
    "light": (218, 176, 150),
    "tan": (190, 144, 112),
    "brown": (142, 98, 72),
    "dark": (88, 60, 46),
}


def linear(srgb: NDArray[np.floating] | tuple[float, ...]) -> NDArray[np.float32]:
    """Linear-light values in [0, 1] of sRGB values in [0, 255]."""
    value = np.asarray(srgb, dtype=np.float64) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encode(light: NDArray[np.floating]) -> NDArray[np.float32]:
    """Encode linear light as sRGB values in [0, 255]; values outside [0, 1] are clipped."""
    value = np.clip(light, 0.0, 1.0)
    return (255 * np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)).astype(np.float32)


def shade(center: tuple[int, int, int], rng: np.random.Generator, amount: float = 1.0) -> tuple[float, float, float]:
    """Draw a shade around a named color: hue, saturation and lightness vary little enough to keep the name.

    Args:
        center: sRGB in [0, 255].
        rng: source of the draw.
        amount: 0 returns the center, 1 the full variation.

    Returns:
        sRGB in [0, 255].
    """
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in center))
    hue += amount * rng.uniform(-0.018, 0.018)
    saturation = float(np.clip(saturation * (1 + amount * rng.uniform(-0.25, 0.15)), 0, 1))
    value = float(np.clip(value * (1 + amount * rng.uniform(-0.2, 0.16)), 0.06, 0.93))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red * 255, green * 255, blue * 255
