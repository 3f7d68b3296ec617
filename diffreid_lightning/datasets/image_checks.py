"""Look at every decoded image of a dataset: broken, black, flat, of few levels, the same one again."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.image_decoding import (
    COLOR_REMEDY,
    DepthError,
    count_frames,
    decode_image,
    deep_values,
    level_range,
    value_range,
)
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

_BATCH = 64  # images handed to a thread at a time: a future for each of a million images would fill the memory
_DARK, _LIGHT, _EVEN = 10, 245, 5  # values a black image stays below, a white one above; spread of a flat one
_FEW = 16  # levels that 12 bits leave in 8 when they are cut off as if they were 16
_STRAY = 0.01  # share of pixels whose levels do not count
_MANY_EMPTY = 0.01  # share of the images from which on those that show nothing are a problem
_SHOWN = 3
_FEW_LEVELS = "of few levels"


@dataclass(frozen=True)
class Decoded:
    """Findings of decoding every image.

    Args:
        images: how many were read.
        broken: (file name, what is wrong) of each image that cannot be decoded.
        too_deep: (file name, what is wrong) of each grey image of more than 8 bits that do not fill their type's range.
        deep_colors: those of them in color, which are rewritten by another program.
        deep_range: smallest and largest grey value over all images of more than 8 bits; None without such images.
        empty: file names of images that show nothing, by what they are: black, white, of one color.
        few_levels: file names of other images of at most 16 levels in every channel.
        several_frames: file names of files with more than one picture, of which the first is taken.
        train_test_copies: file names of test images that are pixel for pixel a training image.
        mislabeled_copies: file names of images that are pixel for pixel an image of another person.
        repeated: file names of images that are pixel for pixel an earlier one of the same person and part.
        most_repeated: how often the image that occurs most often is there.
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
            found.append(self._too_deep_in_words())
        if self.deep_colors:
            found.append(f"{_shallow(self.deep_colors)}; {COLOR_REMEDY}")
        return found if self._few_are_empty else found + self._empty_in_words()

    @property
    def hints(self) -> list[str]:
        """Return findings to look at, which may be correct."""
        found = self._empty_in_words() if self._few_are_empty else []
        for names, what in (
            (self.few_levels, f"images have at most {_FEW} levels per channel"),
            (self.train_test_copies, "test images are copies of training images"),
            (self.mislabeled_copies, "images are copies of another person's image"),
            (self.repeated, "images are copies of another image of the same person"),
            (self.several_frames, "files hold more than one picture, and the first is taken"),
        ):
            if names:
                found.append(f"{len(names):,} {what}: {shorten(names, _SHOWN)}")
        if self.most_repeated > 2:
            found.append(f"one and the same image is there {self.most_repeated:,} times")
        return found

    @property
    def _few_are_empty(self) -> bool:
        """Tell whether so few images show nothing as a camera that fails now and then leaves."""
        return sum(len(names) for _, names in self.empty) < _MANY_EMPTY * self.images

    def _empty_in_words(self) -> list[str]:
        return [f"{len(names):,} images are {kind}: {shorten(names, _SHOWN)}" for kind, names in self.empty]

    def _too_deep_in_words(self) -> str:
        text = _shallow(self.too_deep)
        if self.deep_range is None:
            return f"{text}; write the whole set with one range, as images of 8 bits"
        low, high = (f"{value:.10g}" for value in self.deep_range)
        return (
            f"{text}. Such images hold values from {low} to {high}; write the set anew with one range for all: "
            f"python -m diffreid_lightning data export PATH --format market1501 --out DIR --gray_range {low} {high}"
        )


def _shallow(images: tuple[tuple[str, str], ...]) -> str:
    name, reason = images[0]
    return f"{len(images):,} images of more than 8 bits do not fill the range of their type: {name} ({reason})"


class _Look(NamedTuple):
    """Properties of one decoded image."""

    digest: bytes = b""  # of its pixels; empty where it shows nothing
    broken: str | None = None
    too_deep: str | None = None
    in_color: bool = False
    deep_range: tuple[float, float] | None = None
    kind: str = ""
    frames: int = 1


def decode_all(manifest: Manifest, on_progress: Callable[[int, int], None] | None = None) -> Decoded:
    """Read every image of a manifest with a thread per core (Pillow decodes without holding the interpreter).

    Args:
        manifest: whose images.
        on_progress: called with (images decoded, all images) after each batch.
    """
    names = manifest.table["file_name"].to_pylist()
    looks: list[_Look] = []
    batches = (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        # At most a few batches wait at a time.
        for window in iter(lambda: list(islice(batches, 4 * workers)), []):
            for seen in pool.map(_look_at_batch, [manifest.images] * len(window), window):
                looks += seen
                if on_progress is not None:
                    on_progress(len(looks), len(names))
    pairs = list(zip(names, looks, strict=True))
    across, wrong, repeated = _copies(manifest, names, [look.digest for look in looks])
    counts = Counter(look.digest for look in looks if look.digest)
    kinds = sorted({look.kind for look in looks} - {"", _FEW_LEVELS})
    return Decoded(
        len(names),
        broken=tuple((name, look.broken) for name, look in pairs if look.broken is not None),
        too_deep=tuple((name, look.too_deep) for name, look in pairs if look.too_deep and not look.in_color),
        deep_colors=tuple((name, look.too_deep) for name, look in pairs if look.too_deep and look.in_color),
        deep_range=_whole_range(look.deep_range for look in looks),
        empty=tuple((kind, tuple(name for name, look in pairs if look.kind == kind)) for kind in kinds),
        few_levels=tuple(name for name, look in pairs if look.kind == _FEW_LEVELS),
        several_frames=tuple(name for name, look in pairs if look.frames > 1),
        train_test_copies=across,
        mislabeled_copies=wrong,
        repeated=repeated,
        most_repeated=max(counts.values(), default=1),
    )


def describe_pixels(image: Image.Image) -> str:
    """Name what is odd about an image's pixels: black, white, of one color, of few levels; "" for nothing.

    A hundredth of the pixels does not count: hot ones, or a line of text.

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
    """Count the levels that all but a stray percent of the pixels are made of."""
    sums = np.cumsum(np.sort(counts)[::-1])
    return int(np.searchsorted(sums, (1 - _STRAY) * sums[-1])) + 1


def _look_at_batch(images: ImageRoot, names: list[str]) -> list[_Look]:
    return [_look_at(images, name) for name in names]


def _look_at(images: ImageRoot, name: str) -> _Look:
    """Read and judge one image."""
    data = b""
    try:
        data = images.read(name)
        image = decode_image(data, name)
    except DepthError as error:
        return _Look(too_deep=error.found or error.what, in_color=error.in_color, deep_range=_range(data))
    except UserError as error:
        return _Look(broken=error.found or error.what)
    kind = describe_pixels(image)
    shows = kind in ("", _FEW_LEVELS)
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest() if shows else b""
    return _Look(digest, deep_range=_range(data), kind=kind, frames=count_frames(data))


def _range(data: bytes) -> tuple[float, float] | None:
    values = deep_values(data)
    finite = values[np.isfinite(values)] if values is not None else np.zeros(0)
    return value_range(finite) if finite.size else None


def _whole_range(ranges: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [found for found in ranges if found is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _copies(manifest: Manifest, names: list[str], digests: list[bytes]) -> tuple[tuple[str, ...], ...]:
    """Return the test images that are training images, those of another person, and the other repeated ones."""
    labels, _ = manifest.identities()
    tested = np.isin(manifest.numpy("split"), ["query", "gallery"])
    first: dict[bytes, int] = {}
    trained = {digest for row, digest in enumerate(digests) if not tested[row] and digest}
    across, wrong, repeated = [], [], []
    for row, digest in enumerate(digests):
        if not digest:
            continue
        earlier = first.setdefault(digest, row)
        if tested[row] and digest in trained:
            across.append(names[row])
        if labels[earlier] != labels[row]:
            wrong.append(names[row])
        elif earlier != row and not (tested[row] and digest in trained):
            repeated.append(names[row])
    return tuple(across), tuple(wrong), tuple(repeated)
