"""Decode image files to 8-bit RGB: one conversion for every stage, which refuses what it would lose."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from diffreid_lightning.errors import UserError

# Pillow tries every format it knows unless told; some of those start other programs (EPS starts Ghostscript).
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_FRAMED_FORMATS = ("PNG", "WEBP", "TIFF", "GIF")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second
_PPM_PEAK = re.compile(rb"P[36](?:\s+(?:#.*\n\s*)*\d+){2}\s+(?:#.*\n\s*)*(\d+)\s")
_FEWEST_LEVELS = 64  # 14 bits at the lower end of 16 take a quarter of the range: 64 of the 256 levels of 8 bits
_STRAY = 0.01  # share of pixels at either end that may be hot, dead or lamps, and that tell nothing of the range


class DepthError(UserError):
    """An image has more than 8 bits per channel, and scaling it by the range of its type would lose what it shows.

    Args:
        what: one sentence that says what happened.
        in_color: its values cannot be read, as Pillow cuts more than one channel to 8 bits; grey ones can be rescaled.
        parts: the other parts of the message.
    """

    def __init__(self, what: str, *, in_color: bool = False, **parts: str | None) -> None:
        self.in_color = in_color
        super().__init__(what, **parts)


#: What rewrites images of 16 bits per channel, which Pillow cannot read whole.
COLOR_REMEDY = (
    "write the whole set with one range, as images of 8 bits, by a program that reads 16 bits per channel: "
    "ImageMagick's `magick mogrify -level 0,6.25% -depth 8 *.png` for 12 bits at the lower end of 16; the same "
    "without -level for dark images of a set that fills its range"
)


def decode_image(data: bytes, origin: str) -> Image.Image:
    """Decode one image to 8-bit RGB.

    EXIF orientation is applied. Transparent pixels are laid over white; palettes, grey and CMYK are converted; of an
    animation the first frame is taken. More than 8 bits are scaled linearly by the range of the file's type, the same
    for every image of a set and not by its own darkest and brightest value: 0 to 65535 for 16 bits (0 to 4095 where a
    TIFF states 12). 32-bit types have no range of their own: floats are taken for 0 to 1 where they lie in it, else
    for 0 to 255, integers for 0 to 255, else for 0 to 65535. Where that would leave fewer than 64 of the 256 levels
    and merge values that differ, as with 12 or 14 bits at the lower end of 16, the image is refused. The darkest and
    the brightest percent of its pixels do not count: a hot pixel would hide it.

    Args:
        data: the file's bytes.
        origin: the file's path, for the error message.

    Returns:
        A loaded RGB image of the file's own size.

    Raises:
        UserError: the bytes are empty, cut short, no image, or one of too many pixels.
        DepthError: the values do not fill the range of their type, lie outside of it, or are not finite.
    """
    if not data:
        raise UserError(
            f"An image file is empty: {origin}", found="0 bytes", remedy="copy or unpack this file again, or remove it"
        )
    try:
        image = _loaded(data)
        return _to_rgb(image, data, origin)
    except (MemoryError, DepthError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes: OSError, SyntaxError, ...
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"they start with {data[:8]!r}" if unknown else f"{type(error).__name__}: {error}"
        raise UserError(
            f"An image cannot be decoded: {origin}",
            looked_for="a whole image of one of the formats " + ", ".join(_PILLOW_FORMATS),
            found=f"{len(data)} bytes; {reason}",
            remedy="copy or unpack this file again, or remove it; `data check PATH --decode` lists every broken image",
        ) from error


def deep_values(data: bytes) -> npt.NDArray[Any] | None:
    """Return the grey values, (H, W), of an image of one channel with more than 8 bits; None for any other bytes.

    Args:
        data: a file's bytes.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
        if not image.mode.startswith(("I", "F")):
            return None
        return _values(_loaded(data))
    except MemoryError:
        raise
    except Exception:  # broken bytes: `decode_image` says why
        return None


def value_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest value; without stray pixels, where these take most of the range.

    Args:
        values: finite numbers, at least one.
    """
    low, high = values.min().item(), values.max().item()
    stray = int(_STRAY * values.size)
    ordered = np.partition(values.ravel(), (stray, values.size - 1 - stray)) if stray else values
    bulk = (ordered[stray].item(), ordered[-1 - stray].item()) if stray else (low, high)
    return bulk if bulk[1] - bulk[0] < (high - low) / 2 else (low, high)


def level_range(counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the lowest and highest of 256 levels that are left without stray pixels.

    Args:
        counts: (256,) pixels of each level, at least one in all.
    """
    sums = np.cumsum(counts)
    stray = int(_STRAY * sums[-1])
    low, high = np.searchsorted(sums, (stray, sums[-1] - stray - 1), side="right")
    return int(low), int(high)


def scale_gray(data: bytes, low: float, high: float) -> bytes | None:
    """Write a grey image of more than 8 bits as one of 8 bits, in the same format.

    Args:
        data: the file's bytes.
        low: the value that becomes 0, as everything below it.
        high: the value that becomes 255, as everything above it.

    Returns:
        The new file's bytes; None where the image has 8 bits already, or is no image.
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
    """Count the pictures in a file: more than one in an animation or a TIFF of several pages, else 1.

    Args:
        data: the bytes of an image that can be decoded.
    """
    image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    if image.format not in _FRAMED_FORMATS:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the first is sound, and what follows it is not
        return 1


def _loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    largest = Image.MAX_IMAGE_PIXELS
    if largest is not None and image.width * image.height > largest:  # Pillow warns from here, and refuses twice that
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, more than {largest}")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image, data: bytes, origin: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _scaled(_values(image), _peak(image), origin).convert("RGB")
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
    """Return the largest value that the file's type stands for; None for types of 32 bits, whose values tell."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return float(2**bits - 1) if bits <= 16 and not image.mode.startswith("F") else None


def _scaled(values: npt.NDArray[Any], peak: float | None, origin: str) -> Image.Image:
    """Scale grey values to 8 bits, or refuse them."""
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
    """Tell whether Pillow has cut colors of 16 bits off to 8, which it does without a word."""
    if data[12:16] == b"IHDR":
        return data[24] == 16
    if hasattr(image, "tag_v2"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8
    peak = _PPM_PEAK.match(data[:1024])
    return peak is not None and int(peak[1]) > 255


def _check_color(image: Image.Image, origin: str) -> None:
    """Refuse colors of 16 bits of which little is left in 8; the values themselves are not to be had."""
    histograms = np.reshape(image.histogram(), (-1, 256))
    bands = zip(image.getbands(), histograms, strict=True)
    ranges = [level_range(counts) for name, counts in bands if name != "A"]
    low, high = min(band[0] for band in ranges), max(band[1] for band in ranges)
    if high - low < _FEWEST_LEVELS:
        raise _depth_error(
            origin, f"16 bits per channel, of which 8 bits would keep the levels {low} to {high}", in_color=True
        )


def _depth_error(origin: str, found: str, in_color: bool = False) -> DepthError:
    grey = (
        "write the whole set with one range, as images of 8 bits: `data check PATH --decode` prints the values "
        "that occur and the `data export` command that does it"
    )
    return DepthError(
        f"An image of more than 8 bits does not fill the range of its type: {origin}",
        looked_for="16 bits that take at least a quarter of 0 to 65535, or 32 bits from 0 to 1 or 0 to 255",
        found=found,
        remedy=COLOR_REMEDY if in_color else grey,
        in_color=in_color,
    )
