"""Decode image files to 8-bit RGB, the same for every stage; images that would lose information are refused."""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from diffreid_lightning.errors import UserError

# By default Pillow tries every format; some start other programs (EPS starts Ghostscript).
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_FRAMED_FORMATS = ("PNG", "WEBP", "TIFF", "GIF")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second
_PPM_PEAK = re.compile(rb"P[36](?:\s+(?:#.*\n\s*)*\d+){2}\s+(?:#.*\n\s*)*(\d+)\s")
_FEWEST_LEVELS = 64  # 14-bit values in 16 bits use a quarter of the range: 64 of 256 levels
_BROKEN_REMEDY = (
    "copy or unpack this file again, or remove it; `data check PATH --decode` lists every broken image (with --format "
    "CropFolder of unlabeled crops)"
)
_STRAY = 0.01  # share of pixels at either end that is ignored: hot or dead pixels, lamps


class DepthError(UserError):
    """An image with more than 8 bits per channel that would lose its content if scaled by its type's range."""


class ColorDepthError(DepthError):
    """Such an image in color, which Pillow truncates to 8 bits; gray images can be rescaled."""


#: Remedy for images of 16 bits per channel, which Pillow truncates.
COLOR_REMEDY = (
    "convert the whole set to 8 bits with one range, by a program that reads 16 bits per channel: "
    "ImageMagick's `magick mogrify -level 0,6.25% -depth 8 *.png` for 12 bits at the lower end of 16; the same "
    "without -level for dark images of a set that fills its range"
)


def decode_image(data: bytes, origin: str) -> Image.Image:
    """Decode one image to 8-bit RGB.

    EXIF orientation is applied if it can be read. Transparent pixels are blended with white; palettes, gray and CMYK
    are converted; the first frame of an animation is used. More than 8 bits are scaled linearly by the range of the
    file's type, not by the image's own extrema, so that all images of a set are scaled alike: 0 to 65535 for 16 bits (0
    to 4095 if a TIFF states 12). For 32-bit floats the range is 0 to 1 if the values fit, else 0 to 255; for integers 0
    to 255, else 0 to 65535. If this would leave fewer than 64 of 256 levels and merge different values (12 or 14 bits
    stored in 16), the image is refused. The darkest and brightest percent of the pixels are ignored, since a hot pixel
    would hide it.

    Args:
        data: the file's bytes.
        origin: the file's path, for the error message.

    Returns:
        A loaded RGB image of the file's size.

    Raises:
        UserError: the bytes are empty, truncated or not an image, or the image has too many pixels.
        DepthError: the values do not fill the range of their type, lie outside of it, or are not finite.
    """
    if not data:
        raise UserError(f"An image file is empty: {origin}", found="0 bytes", remedy=_BROKEN_REMEDY)
    try:
        return _to_rgb(_load(data), data, origin)
    except (MemoryError, DepthError):
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken bytes: OSError, SyntaxError, ...
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"they start with {data[:8]!r}" if unknown else f"{type(error).__name__}: {error}"
        raise UserError(
            f"An image cannot be decoded: {origin}",
            looked_for="a complete image of one of the formats " + ", ".join(_PILLOW_FORMATS),
            found=f"{len(data)} bytes; {reason}",
            remedy=_BROKEN_REMEDY,
        ) from error


def deep_values(data: bytes) -> npt.NDArray[Any] | None:
    """Return the gray values, (H, W), of an image of one channel with more than 8 bits; None for any other bytes.

    Args:
        data: a file's bytes.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
        if not image.mode.startswith(("I", "F")):
            return None
        return _values(_load(data))
    except MemoryError:
        raise
    except Exception:  # broken bytes, which `decode_image` reports
        return None


def value_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest value, without stray pixels if these take most of the range.

    Args:
        values: finite numbers, at least one.
    """
    low, high = values.min().item(), values.max().item()
    stray = int(_STRAY * values.size)
    ordered = np.partition(values.ravel(), (stray, values.size - 1 - stray)) if stray else values
    bulk = (ordered[stray].item(), ordered[-1 - stray].item()) if stray else (low, high)
    return bulk if bulk[1] - bulk[0] < (high - low) / 2 else (low, high)


def level_range(counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the lowest and highest of 256 levels, without stray pixels.

    Args:
        counts: (256,) pixels of each level, at least one in total.
    """
    sums = np.cumsum(counts)
    stray = int(_STRAY * sums[-1])
    low, high = np.searchsorted(sums, (stray, sums[-1] - stray - 1), side="right")
    return int(low), int(high)


def scale_gray(data: bytes, low: float, high: float) -> bytes | None:
    """Convert a gray image of more than 8 bits to 8 bits, in the same format.

    Args:
        data: the file's bytes.
        low: the value that becomes 0, with everything below.
        high: the value that becomes 255, with everything above.

    Returns:
        The new file's bytes; None for 8 bits or anything but an image.
    """
    values = deep_values(data)
    if values is None:
        return None
    scaled = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0).clip(0, 1)
    kind = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS).format
    buffer = io.BytesIO()
    Image.fromarray((scaled * 255).round().astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def count_frames(data: bytes) -> int:
    """Count the frames of an animation or the pages of a TIFF; 1 for any other image.

    Args:
        data: the bytes of an image that can be decoded.
    """
    image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    if image.format not in _FRAMED_FORMATS:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the first frame is readable, a later one is not
        return 1


def _load(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    largest = Image.MAX_IMAGE_PIXELS
    if largest is not None and image.width * image.height > largest:  # Pillow only warns up to twice that
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, more than {largest}")
    image.load()
    with suppress(SyntaxError, ValueError, TypeError, struct.error):  # an unreadable note beside sound pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image, data: bytes, origin: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _scale(_values(image), _peak(image), origin).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    if _color_is_deep(image, data):
        _check_color(image, origin)
    return rgb


def _values(image: Image.Image) -> npt.NDArray[Any]:
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        return int(_peak(image) or 0) - values
    return values


def _peak(image: Image.Image) -> float | None:
    """Return the largest value of the file's type; None for 32 bits, where it follows from the values."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return float(2**bits - 1) if bits <= 16 and not image.mode.startswith("F") else None


def _scale(values: npt.NDArray[Any], peak: float | None, origin: str) -> Image.Image:
    """Scale gray values to 8 bits, or raise DepthError."""
    if not np.isfinite(values).all():
        raise _depth_error(origin, f"{int((~np.isfinite(values)).sum())} values that are not finite")
    low, high = values.min().item(), values.max().item()
    is_float = np.issubdtype(values.dtype, np.floating)
    narrow, wide = (1.0, 255.0) if is_float else (255.0, 65535.0)
    limit = peak or (narrow if low >= 0 and high <= narrow else wide)
    if low < 0 or high > limit:
        raise _depth_error(origin, f"values from {low:.10g} to {high:.10g}, outside of 0 to {limit:g}")
    if is_float:
        levels = (values.astype(np.float64) * (255 / limit)).round().astype(np.uint8)
    else:
        levels = (values.astype(np.int64) * 256 // int(limit + 1)).astype(np.uint8)
    darkest, brightest = level_range(np.bincount(levels.ravel(), minlength=256))
    if brightest - darkest < _FEWEST_LEVELS:
        before, after = len(np.unique(values)), len(np.unique(levels))
        if after < before:
            low, high = value_range(values)
            found = (
                f"values from {low:.10g} to {high:.10g} of 0 to {limit:g}: 8 bits would keep {after} of {before} levels"
            )
            raise _depth_error(origin, found)
    return Image.fromarray(levels)


def _color_is_deep(image: Image.Image, data: bytes) -> bool:
    """Return true if Pillow has silently truncated colors of 16 bits to 8."""
    if data[12:16] == b"IHDR":
        return data[24] == 16
    if hasattr(image, "tag_v2"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8
    peak = _PPM_PEAK.match(data[:1024])
    return peak is not None and int(peak[1]) > 255


def _check_color(image: Image.Image, origin: str) -> None:
    """Refuse colors of 16 bits with few levels left in 8 bits; Pillow does not give the original values."""
    histograms = np.reshape(image.histogram(), (-1, 256))
    bands = zip(image.getbands(), histograms, strict=True)
    ranges = [level_range(counts) for name, counts in bands if name != "A"]
    low, high = min(band[0] for band in ranges), max(band[1] for band in ranges)
    if high - low < _FEWEST_LEVELS:
        found = f"16 bits per channel, of which 8 bits would keep the levels {low} to {high}"
        raise _depth_error(origin, found, ColorDepthError)


def _depth_error(origin: str, found: str, kind: type[DepthError] = DepthError) -> DepthError:
    gray = (
        "convert the whole set to 8 bits with one range: `data check PATH --decode` prints the values that occur and "
        "the `data export` command for it"
    )
    return kind(
        f"An image of more than 8 bits does not fill the range of its type: {origin}",
        looked_for="16 bits that take at least a quarter of 0 to 65535, or 32 bits from 0 to 1 or 0 to 255",
        found=found,
        remedy=COLOR_REMEDY if kind is ColorDepthError else gray,
    )
