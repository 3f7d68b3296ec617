"""Locate the person, torso and legs in a crop, without a network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIZE = (64, 32)
"""Height and width in pixels of the resized crop: small enough to average out noise and texture."""

TORSO, LEGS, HIPS, SHINS = (0.19, 0.45), (0.50, 0.70), (0.50, 0.60), (0.72, 0.84)
"""Bands of an upright crop of a standing person, as shares of the height."""

_CENTER = 0.14  # standard deviation of the prior across the width
_BORDER = 4  # background columns at either edge
_ROWS = 9  # rows of the median border color
_UNLIKE = 10.0  # CIELAB distance above which a color differs from the background
_FLOOR = 0.1  # minimum weight, for clothes in the background's color


def figure_weights(lab: Floats) -> Floats:
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


def surroundings(lab: Floats) -> float:
    """Return the lightness around the person, 0 to 100: the median of the edges left and right.

    Args:
        lab: (H, W, 3) CIELAB.
    """
    return float(np.median(np.concatenate([lab[:, :_BORDER, 0], lab[:, -_BORDER:, 0]], axis=1)))


def rows_of(band: tuple[float, float], height: int) -> slice:
    """Return the rows of a band.

    Args:
        band: begin and end as shares of the height.
        height: in pixels.
    """
    return slice(int(band[0] * height), int(np.ceil(band[1] * height)))


def _smooth(border: Floats) -> Floats:
    """Return the median color beside each row, (H, 3), over the rows around it; border is (H, columns, 3)."""
    half = _ROWS // 2
    padded = np.pad(border, ((half, half), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _ROWS, axis=0)  # (H, columns, 3, rows)
    return np.median(windows, axis=(1, 3))
