"""Check every decoded image of a dataset: broken, black, flat, with few levels, duplicated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffreid_lightning.cores import usable_cores
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_decoding import (
    COLOR_REMEDY,
    ColorDepthError,
    DepthError,
    count_frames,
    decode_image,
    deep_values,
    level_range,
    value_range,
)
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

_BATCH = 64  # images per thread task: one future per image would fill the memory for a million images
_DARK, _LIGHT, _EVEN = 10, 245, 5  # maximum of a black image, minimum of a white one, spread of a flat one
_FEW = 16  # levels left if 12-bit values are truncated to 8 bits as if they were 16-bit
_STRAY = 0.01  # share of pixels whose levels are ignored
_MANY_EMPTY = 0.01  # share of empty images from which they are a problem
_SHOWN = 3
_FEW_LEVELS = "of few levels"


@dataclass(frozen=True)
class Decoded:
    """Findings of decoding every image.

    Args:
        images: number of images read.
        broken: (file name, reason) of each image that cannot be decoded.
        too_deep: (file name, reason) of each gray image with more than 8 bits that do not fill their type's range.
        deep_colors: the same for color images, which another program must convert.
        deep_range: smallest and largest gray value over all images of more than 8 bits; None without such images.
        empty: file names of empty images by kind: black, white, of one color.
        few_levels: file names of other images with at most 16 levels in every channel.
        several_frames: file names of files with more than one frame, of which the first is read.
        train_test_copies: file names of test images that are exact copies of a training image.
        mislabeled_copies: file names of exact copies of another person's image.
        repeated: file names of exact copies of an earlier image of the same person and part.
        most_repeated: number of occurrences of the most frequent image.
    """

    images: int
    broken: tuple[tuple[str, str], ...] = ()
    too_deep: tuple[tuple[str, str], ...] = ()
    deep_colors: tuple[tuple[str, str], ...] = ()
    deep_range: tuple[float, float] | None = None
    empty: tuple[tuple[str, tuple[str, ...]], ...] = ()
    few_levels: tuple[str, ...] = ()
    several_frames: tuple[str, ...] = ()
    train_test_copies: tuple[str, ...] = ()
    mislabeled_copies: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    most_repeated: int = 1

    @property
    def problems(self) -> list[str]:
        """Return the faults that must be fixed before the images are used."""
        found = []
        if self.broken:
            found.append(f"{len(self.broken):,} images cannot be read")
        if self.too_deep:
            found.append(self._describe_too_deep())
        if self.deep_colors:
            found.append(f"{_describe_depth(self.deep_colors)}; {COLOR_REMEDY}")
        return found if self._few_are_empty else found + self._describe_empty()

    @property
    def hints(self) -> list[str]:
        """Return findings to look at, which may be correct."""
        found = self._describe_empty() if self._few_are_empty else []
        for names, what in (
            (self.few_levels, f"images have at most {_FEW} levels per channel"),
            (self.train_test_copies, "test images are copies of training images"),
            (self.mislabeled_copies, "images are copies of another person's image"),
            (self.repeated, "images are copies of another image of the same person"),
            (self.several_frames, "files hold more than one frame, of which the first is read"),
        ):
            if names:
                found.append(f"{len(names):,} {what}: {shorten(names, _SHOWN)}")
        if self.most_repeated > 2:
            found.append(f"one image occurs {self.most_repeated:,} times")
        return found

    @property
    def _few_are_empty(self) -> bool:
        """Return true if the share of empty images is that of an occasional camera failure."""
        return sum(len(names) for _, names in self.empty) < _MANY_EMPTY * self.images

    def _describe_empty(self) -> list[str]:
        return [f"{len(names):,} images are {kind}: {shorten(names, _SHOWN)}" for kind, names in self.empty]

    def _describe_too_deep(self) -> str:
        text = _describe_depth(self.too_deep)
        if self.deep_range is None:
            return f"{text}; convert the whole set to 8 bits with one range"
        low, high = (f"{value:.10g}" for value in self.deep_range)
        return (
            f"{text}. Such images hold values from {low} to {high}; rewrite the set with one range for all: "
            f"python -m diffreid_lightning data export PATH --format market1501 --out DIR --gray_range {low} {high}"
        )


def _describe_depth(images: tuple[tuple[str, str], ...]) -> str:
    name, reason = images[0]
    return f"{len(images):,} images of more than 8 bits do not fill the range of their type: {name} ({reason})"


class _Look(NamedTuple):
    """Properties of one decoded image."""

    digest: bytes = b""  # of its pixels; empty for an empty image
    broken: str | None = None
    too_deep: str | None = None
    in_color: bool = False
    deep_range: tuple[float, float] | None = None
    kind: str = ""
    frames: int = 1


def decode_all(
    manifest: Manifest, on_progress: Callable[[int, int], None] | None = None, *, pids_restart: bool = False
) -> Decoded:
    """Read every image of a manifest, with one thread per core (Pillow releases the GIL).

    Args:
        manifest: the images' manifest.
        on_progress: called with (images decoded, all images) after each batch.
        pids_restart: whether a pid in train and in test is two people.
    """
    names = manifest.table["file_name"].to_pylist()
    looks: list[_Look] = []
    batches = (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        # Bound the number of waiting batches.
        for window in iter(lambda: list(islice(batches, 4 * workers)), []):
            for seen in pool.map(lambda batch: [_check_image(manifest.images, name) for name in batch], window):
                looks += seen
                if on_progress is not None:
                    on_progress(len(looks), len(names))
    pairs = list(zip(names, looks, strict=True))
    across, wrong, repeated = _find_copies(manifest, names, [look.digest for look in looks], pids_restart)
    counts = Counter(look.digest for look in looks if look.digest)
    kinds = sorted({look.kind for look in looks} - {"", _FEW_LEVELS})
    return Decoded(
        len(names),
        broken=tuple((name, look.broken) for name, look in pairs if look.broken is not None),
        too_deep=tuple((name, look.too_deep) for name, look in pairs if look.too_deep and not look.in_color),
        deep_colors=tuple((name, look.too_deep) for name, look in pairs if look.too_deep and look.in_color),
        deep_range=_merge_ranges(look.deep_range for look in looks),
        empty=tuple((kind, tuple(name for name, look in pairs if look.kind == kind)) for kind in kinds),
        few_levels=tuple(name for name, look in pairs if look.kind == _FEW_LEVELS),
        several_frames=tuple(name for name, look in pairs if look.frames > 1),
        train_test_copies=across,
        mislabeled_copies=wrong,
        repeated=repeated,
        most_repeated=max(counts.values(), default=1),
    )


def describe_pixels(image: Image.Image) -> str:
    """Return "black", "white", "of one color" or "of few levels"; "" for an ordinary image.

    One percent of the pixels is ignored: hot pixels, or a line of text.

    Args:
        image: RGB.
    """
    histograms = np.reshape(image.histogram(), (-1, 256))
    bands = [level_range(counts) for counts in histograms]
    low, high = min(band[0] for band in bands), max(band[1] for band in bands)
    if high <= _DARK:
        return "black"
    if low >= _LIGHT:
        return "white"
    if all(band[1] - band[0] <= _EVEN for band in bands):
        return "of one color"
    return _FEW_LEVELS if max(map(_levels, histograms)) <= _FEW else ""


def _levels(counts: npt.NDArray[np.int64]) -> int:
    """Count the levels that cover 99 % of the pixels."""
    sums = np.cumsum(np.sort(counts)[::-1])
    return int(np.searchsorted(sums, (1 - _STRAY) * sums[-1])) + 1


def _check_image(images: ImageRoot, name: str) -> _Look:
    """Read and check one image."""
    data = b""
    try:
        data = images.read(name)
        image = decode_image(data, name)
    except DepthError as error:
        in_color = isinstance(error, ColorDepthError)
        return _Look(too_deep=error.found or error.what, in_color=in_color, deep_range=_gray_range(data))
    except UserError as error:
        return _Look(broken=error.found or error.what)
    kind = describe_pixels(image)
    shows = kind in ("", _FEW_LEVELS)
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest() if shows else b""
    return _Look(digest, deep_range=_gray_range(data), kind=kind, frames=count_frames(data))


def _gray_range(data: bytes) -> tuple[float, float] | None:
    values = deep_values(data)
    finite = values[np.isfinite(values)] if values is not None else np.zeros(0)
    return value_range(finite) if finite.size else None


def _merge_ranges(ranges: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [found for found in ranges if found is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _find_copies(
    manifest: Manifest, names: list[str], digests: list[bytes], pids_restart: bool
) -> tuple[tuple[str, ...], ...]:
    """Return copies of training images in test, copies under another person, and other copies."""
    keys = ["source", "partition", "pid"] if pids_restart else ["source", "pid"]  # the parts share people otherwise
    people = list(zip(*(manifest.numpy(key).tolist() for key in keys), strict=True))
    tested = np.isin(manifest.numpy("split"), ["query", "gallery"])
    first: dict[bytes, int] = {}
    first_of_part: dict[tuple[bytes, bool], int] = {}
    trained = {digest for row, digest in enumerate(digests) if not tested[row] and digest}
    across, wrong, repeated = [], [], []
    for row, digest in enumerate(digests):
        if not digest:
            continue
        earlier = first.setdefault(digest, row)
        of_part = first_of_part.setdefault((digest, bool(tested[row])), row)
        if tested[row] and digest in trained:
            across.append(names[row])
        if people[earlier] != people[row]:
            wrong.append(names[row])
        elif of_part != row and not (tested[row] and digest in trained):
            repeated.append(names[row])
    return tuple(across), tuple(wrong), tuple(repeated)
