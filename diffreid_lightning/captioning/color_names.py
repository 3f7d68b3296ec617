"""Name pixel colors by the Re-ID field's color words, in CIELAB after white balance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

COLORS = (
    "black", "white", "grey", "red", "orange", "yellow", "green", "teal", "blue", "navy", "purple", "pink", "brown",
    "beige",
)  # fmt: skip
"""Color words, by the numbers that :func:`name_colors` returns."""

_NUMBER = {name: number for number, name in enumerate(COLORS)}
# sRGB's primaries and its white point D65 (IEC 61966-2-1), each row divided by the white's X, Y and Z.
_TO_XYZ = np.array(
    [[0.412456, 0.357576, 0.180438], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304]], np.float32
) / np.array([[0.950470], [1.0], [1.088830]], np.float32)  # fmt: skip
_ENCODED = np.arange(256) / 255
_LINEAR: Floats = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)

_NORM = 4  # between the mean (grey world) and the maximum (white patch)
_TINT = 0.5  # share of the estimated tint that is removed: a red coat may fill the image
_WHITE = 0.8  # linear light of the brightest pixels after exposure
_BRIGHTEST = 0.95  # quantile of the brightest pixels
_GAIN = (0.7, 3.0)  # limits of the exposure gain, so that night images stay dark

_ACHROMATIC = 12.0  # chroma below which a color is black, grey or white
_BLACK, _LIGHT_GREY = 30.0, 70.0  # lightness below which a grey is black, above which it is white
# Hue angle in degrees at which each sector begins; the last one runs on through 0 to the first.
_SECTORS = {52: "orange", 80: "yellow", 118: "green", 185: "teal", 242: "blue", 309: "purple", 354: "red"}


def lab_of(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Convert sRGB to CIELAB under D65 (CIE 15).

    Args:
        pixels: (..., 3) uint8.

    Returns:
        (..., 3): L in 0..100, a and b around 0.
    """
    return _lab(_LINEAR[pixels])


def lab_in_neutral_light(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Convert an image to CIELAB after white balance and exposure correction.

    The tint is estimated by the Minkowski norm of the channels (Shades of Grey: Finlayson and Trezzi, Color Imaging
    Conference 2004) and partly removed; the exposure is set by the brightest pixels.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (H, W, 3).
    """
    light = _LINEAR[pixels]
    norms = (light**_NORM).mean(axis=(0, 1)) ** (1 / _NORM)
    norms = np.maximum(norms, 1e-4)
    light = light * (norms.mean() / norms) ** _TINT
    brightest = np.quantile(light.max(axis=-1), _BRIGHTEST)
    gain = np.clip(_WHITE / max(float(brightest), 1e-4), *_GAIN)
    return _lab(np.clip(light * np.float32(gain), 0, 1))


def name_colors(lab: Floats) -> npt.NDArray[np.intp]:
    """Name each color by its lightness, chroma and hue.

    Args:
        lab: (..., 3).

    Returns:
        (...) positions in :data:`COLORS`.
    """
    lightness = lab[..., 0]
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    sectors = np.array([_NUMBER["red"], *(_NUMBER[name] for name in _SECTORS.values())])
    named = sectors[np.searchsorted(list(_SECTORS), hue, side="right")]

    def rename(old: str, mask: npt.NDArray[np.bool_], new: str) -> None:
        named[(named == _NUMBER[old]) & mask] = _NUMBER[new]

    # Exceptions by lightness and chroma: pale reds are pink, dark oranges and yellows brown or beige, ...
    rename("red", lightness > 58, "pink")
    rename("red", (lightness < 35) & (chroma < 24), "brown")
    rename("orange", (chroma < 34) & (lightness > 48), "beige")
    rename("orange", lightness < 58, "brown")
    rename("yellow", lightness < 48, "brown")
    rename("yellow", chroma < 42, "beige")
    rename("blue", lightness < 30, "navy")
    rename("purple", lightness > 60, "pink")
    grey = np.where(lightness < _BLACK, _NUMBER["black"], _NUMBER["grey"])
    grey = np.where(lightness > _LIGHT_GREY, _NUMBER["white"], grey)
    return np.where(chroma < _ACHROMATIC, grey, named)


def _lab(light: Floats) -> Floats:
    xyz = light @ _TO_XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)
