"""Captions without a model: colors of upper and lower garment, and brightness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffreid_lightning.captioning.base import Captioner
from diffreid_lightning.captioning.color_names import COLORS, lab_in_neutral_light, lab_of, name_colors
from diffreid_lightning.captioning.consensus import with_article

Floats = npt.NDArray[np.float32]

_SIZE = (64, 32)  # height and width of the resized crop: small enough to average out noise and texture
# Bands of an upright crop of a standing person, as shares of the height.
_TORSO, _LEGS, _HIPS, _SHINS = (0.19, 0.45), (0.50, 0.70), (0.50, 0.60), (0.72, 0.84)
_CENTER = 0.14  # standard deviation of the prior across the width
_BORDER = 4  # background columns at either edge
_ROWS = 9  # rows of the median border color
_UNLIKE = 10.0  # CIELAB distance above which a color differs from the background
_FLOOR = 0.1  # minimum weight, for clothes in the background's color
_SECOND = 0.25  # minimum share of the torso for a second color
_APART = 25.0  # minimum CIELAB distance of two colors, above light and shade on one
_BARE = 0.2  # minimum excess of skin below the knee for bare legs
_HEM = 15.0  # CIELAB distance between thigh and shin at the end of a short garment
_DARK, _BRIGHT = 35.0, 70.0  # lightness of the surroundings


class ColorCaptioner(Captioner):
    """Caption garment colors by body region, without weights, download or GPU.

    "a person wearing a red and white top and navy trousers, in the dark". The person is the region in the middle that
    differs from the edges of the crop; torso and legs are bands of its height; their pixels vote on the color in
    CIELAB. Bare legs below the knee turn trousers into shorts (skirts are not distinguished). It expects one upright
    person who fills the crop, as detectors cut it.
    """

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Caption images one by one."""
        return [describe_colors(image) for image in images]


def describe_colors(image: Image.Image) -> str:
    """Caption one person crop.

    Args:
        image: RGB, of any size.
    """
    crop = _Crop(image)
    top, below = crop.garment_colors()
    garment = "shorts" if _bare_legs(crop.seen, crop.neutral, crop.weights) else "trousers"
    caption = f"a person wearing {with_article(f'{top} top')} and {below} {garment}"
    lightness = _surroundings(crop.seen)
    if lightness < _DARK:
        return f"{caption}, in the dark"
    return f"{caption}, in bright light" if lightness > _BRIGHT else caption


def garment_colors(image: Image.Image) -> tuple[str, str]:
    """Name the colors of the upper garment, one or two ("red and white"), and of the lower one.

    Args:
        image: RGB person crop, of any size.
    """
    return _Crop(image).garment_colors()


class _Crop:
    """A crop of standard size: its colors as seen and in neutral light, and the weights of the figure's pixels."""

    def __init__(self, image: Image.Image) -> None:
        pixels = np.asarray(image.resize((_SIZE[1], _SIZE[0]), Image.Resampling.BOX))
        self.seen = lab_of(pixels)
        self.weights = _figure_weights(self.seen)
        self.neutral = lab_in_neutral_light(pixels)

    def garment_colors(self) -> tuple[str, str]:
        torso, legs = _rows_of(_TORSO), _rows_of(_LEGS)
        (below,) = _colors(self.neutral[legs], self.weights[legs], two=False)
        return " and ".join(_colors(self.neutral[torso], self.weights[torso], two=True)), below


def _colors(lab: Floats, weights: Floats, two: bool) -> list[str]:
    """Return the color with the most weight and, if ``two``, a second one that is neither rare nor a shade of it."""
    named = name_colors(lab).ravel()
    flat, lab = weights.ravel(), lab.reshape(-1, 3)
    votes = np.bincount(named, flat, minlength=len(COLORS))
    first, second = np.argsort(-votes, kind="stable")[:2]
    if not two or votes[second] < _SECOND * votes.sum():
        return [COLORS[first]]
    means = [np.average(lab[named == number], axis=0, weights=flat[named == number]) for number in (first, second)]
    return [COLORS[first], *([COLORS[second]] if np.linalg.norm(means[0] - means[1]) > _APART else [])]


def _bare_legs(seen: Floats, neutral: Floats, weights: Floats) -> bool:
    """Tell whether skin shows below the knee but not at the hips, in raw or neutral light."""
    skin = _is_skin(seen) | _is_skin(neutral)
    share, mean = [], []
    for band in (_HIPS, _SHINS):
        rows = _rows_of(band)
        share.append(np.average(skin[rows], weights=weights[rows]))
        mean.append(np.average(neutral[rows].reshape(-1, 3), axis=0, weights=weights[rows].ravel()))
    return bool(share[1] - share[0] > _BARE and np.linalg.norm(mean[0] - mean[1]) > _HEM)


def _is_skin(lab: Floats) -> npt.NDArray[np.bool_]:
    """Mask the colors that skin can have."""
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    return (hue > 25) & (hue < 80) & (chroma > 10) & (chroma < 50) & (lab[..., 0] > 22)


def _figure_weights(lab: Floats) -> Floats:
    """Weigh each pixel by how likely it shows the person: near the middle, and unlike the edges beside it.

    Args:
        lab: (H, W, 3) CIELAB.

    Returns:
        (H, W) in 0..1.
    """
    width = lab.shape[1]
    across = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    center = np.exp(-0.5 * (across / _CENTER) ** 2)
    behind = [_smooth(lab[:, :_BORDER]), _smooth(lab[:, -_BORDER:])]
    unlike = np.minimum(*(np.linalg.norm(lab - color[:, None], axis=-1) for color in behind))
    return (center * (_FLOOR + (1 - _FLOOR) * (1 - np.exp(-((unlike / _UNLIKE) ** 2))))).astype(np.float32)


def _surroundings(lab: Floats) -> float:
    """Return the lightness around the person, 0 to 100: the median of the edges left and right.

    Args:
        lab: (H, W, 3) CIELAB.
    """
    return float(np.median(np.concatenate([lab[:, :_BORDER, 0], lab[:, -_BORDER:, 0]], axis=1)))


def _rows_of(band: tuple[float, float]) -> slice:
    """Return the rows of a band, whose begin and end are shares of the height."""
    return slice(int(band[0] * _SIZE[0]), int(np.ceil(band[1] * _SIZE[0])))


def _smooth(border: Floats) -> Floats:
    """Return the median color beside each row, (H, 3), over the rows around it; border is (H, columns, 3)."""
    half = _ROWS // 2
    padded = np.pad(border, ((half, half), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _ROWS, axis=0)  # (H, columns, 3, rows)
    return np.median(windows, axis=(1, 3))
