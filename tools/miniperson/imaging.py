"""From light to file: exposure, color cast, blur, noise and JPEG, as one camera makes them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tools.miniperson.palette import encode
from tools.miniperson.viewpoint import Sensor

Array = NDArray[np.float32]


def develop(light: Array, sensor: Sensor, rng: np.random.Generator, *, motion: float = 0.0) -> NDArray[np.uint8]:
    """Turn linear light into an 8-bit picture.

    Args:
        light: (H, W, 3) linear light.
        sensor: the camera's character.
        rng: exposure jitter and noise.
        motion: length of a horizontal smear in pixels of a 128 pixel high picture.

    Returns:
        (H, W, 3) sRGB picture.
    """
    scale = light.shape[0] / 128
    exposed = light * (sensor.gain * rng.uniform(0.88, 1.12)) * np.asarray(sensor.cast) + sensor.black
    # A soft shoulder instead of hard clipping keeps bright cloth and lamps from turning into flat patches.
    exposed = np.where(exposed > 0.7, 0.7 + 0.3 * (1 - np.exp(-(exposed - 0.7) / 0.3)), exposed)
    blur = sensor.blur * scale * rng.uniform(0.8, 1.3)
    exposed = ndimage.gaussian_filter(exposed, (blur, blur, 0))
    if motion * scale > 0.5:
        exposed = ndimage.uniform_filter1d(exposed, max(2, round(motion * scale)), axis=1)
    coded = encode(exposed) / 255
    grey = coded.mean(axis=2, keepdims=True)
    coded = grey + (coded - grey) * sensor.saturation
    coded = 0.45 + (coded - 0.45) * sensor.contrast
    grain = rng.standard_normal(coded.shape, dtype=np.float32) * 0.6
    grain += rng.standard_normal((*coded.shape[:2], 1), dtype=np.float32) * 0.8
    coded = coded + grain * sensor.noise * (0.6 + 0.8 * (1 - grey))
    return np.clip(coded * 255 + 0.5, 0, 255).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """Compress a picture (H, W, 3); the bytes depend on nothing but the arguments."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, subsampling=2, optimize=True)
    return buffer.getvalue()
