"""Collect the k nearest entries of each image from blocks of distances in any order.

An entry is a 64-bit key with its distance in the upper half and its index in the lower, so that keys are distinct and
sort by distance, then index: the k smallest keys do not depend on the division into blocks. Few entries become keys. An
upper bound of the k-th smallest distance, from one pass of minima, drops nearly all others in one comparison.
"""

from __future__ import annotations

import numpy as np

NO_ENTRY = np.iinfo(np.int64).max
"""Key of a missing entry; larger than any other."""

_INDEX_BITS = 32
_ENTRIES_PER_MINIMUM = 32


def entry_keys(distances: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Combine distances and indices into keys that sort by distance, then by index.

    Args:
        distances: float32, finite.
        indices: non-negative integers below 2³², the same shape.

    Returns:
        int64 keys.
    """
    bits = (distances + np.float32(0)).view(np.int32)  # + 0 turns −0, which has other bits, into 0
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # bits of negative floats sort in reverse
    return (ordered.astype(np.int64) << _INDEX_BITS) | indices


def key_indices(keys: np.ndarray) -> np.ndarray:
    """Return the indices in keys, int64."""
    return keys & ((1 << _INDEX_BITS) - 1)


def key_distances(keys: np.ndarray) -> np.ndarray:
    """Return the float32 distances in keys; NaN for a missing entry."""
    ordered = (keys >> _INDEX_BITS).astype(np.int32)
    return (ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def kth_smallest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th smallest value of each row; the largest finite float if a row has fewer.

    Args:
        values: (R, C) float32, +inf for a missing entry.
        k: at least 1.

    Returns:
        (R,) float32, finite.
    """
    largest = np.finfo(np.float32).max
    if values.shape[1] < k:
        return np.full(len(values), largest, dtype=np.float32)
    return np.minimum(np.partition(values, k - 1, axis=1)[:, k - 1], largest)


def group_minima(block: np.ndarray) -> np.ndarray:
    """Return the smallest distance of each group of 32 columns of a row; a group takes every (C / 32)-th column.

    Args:
        block: (R, C) float32, C a multiple of 32.

    Returns:
        (R, C / 32) float32.
    """
    groups = block.shape[1] // _ENTRIES_PER_MINIMUM
    minima: np.ndarray = block.reshape(len(block), _ENTRIES_PER_MINIMUM, groups).min(axis=1)
    return minima


def row_bounds(block: np.ndarray, k: int) -> np.ndarray:
    """Return an upper bound of each row's k-th smallest distance (of all of them, if a row has fewer).

    Args:
        block: (R, C) float32, +inf for a missing entry; C a multiple of 32.
        k: at least 1.

    Returns:
        (R,) float32, finite; close to the k-th smallest distance.
    """
    # The k smallest of the groups' minima are k entries of the row.
    return kth_smallest(block if block.shape[1] < k * _ENTRIES_PER_MINIMUM else group_minima(block), k)


def members_of_groups(group: np.ndarray, groups: int) -> np.ndarray:
    """Return the columns of the entries in groups of :func:`group_minima`.

    Args:
        group: (M,) int64, numbers of the groups.
        groups: number of groups in a row.

    Returns:
        (M, 32) int64.
    """
    return group[:, None] + groups * np.arange(_ENTRIES_PER_MINIMUM)


def places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of a matrix's true elements, row by row; much faster than ``np.nonzero`` if few."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


class NearestEntries:
    """The k nearest entries offered so far to each of N images.

    Threads may offer entries to different images at the same time.

    Args:
        images: N.
        k: entries to keep, at least 1.
    """

    def __init__(self, images: int, k: int) -> None:
        self.keys: np.ndarray = np.full((images, k), NO_ENTRY)
        """(N, k) int64, ascending in each row."""

    def bounds(self, first: int, last: int) -> np.ndarray:
        """Return the largest distance that enters the lists of images first .. last - 1, (last - first,) float32."""
        farthest = self.keys[first:last, -1]
        return np.where(farthest == NO_ENTRY, np.finfo(np.float32).max, key_distances(farthest))

    def offer(self, first: int, owners: np.ndarray, keys: np.ndarray) -> None:
        """Merge entries into the lists of their images.

        Args:
            first: image of owner 0.
            owners: (E,) int64, ascending.
            keys: (E,) int64.
        """
        if not len(owners):
            return
        lengths = np.bincount(owners)
        touched = np.flatnonzero(lengths)
        lengths = lengths[touched]
        slot = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        k = self.keys.shape[1]
        merged = np.full((len(touched), k + lengths.max()), NO_ENTRY)
        merged[:, :k] = self.keys[first + touched]
        merged[np.repeat(np.arange(len(touched)), lengths), k + slot] = keys
        merged.sort(axis=1)
        self.keys[first + touched] = merged[:, :k]
