"""Compute the thickness of cloth, and the smooth steps of its edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Distance of the cloth from the skin on the chest, in meters, by kind of upper garment.
THICKNESS = {
    "tshirt": 0.015,
    "shirt": 0.016,
    "jumper": 0.021,
    "hoodie": 0.026,
    "jacket": 0.030,
    "coat": 0.029,
    "vest": 0.010,
    "dress": 0.010,
}


def ramp(value: Array, start: float, end: float) -> Array:
    """0 before ``start``, 1 after ``end``, smooth between; also falling when end < start."""
    t = np.clip((value - start) / (end - start), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
