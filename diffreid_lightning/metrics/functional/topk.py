"""The k nearest entries of each image, gathered from blocks of distances in any order.

An entry is held as one 64-bit key, its distance in the upper half and its index in the lower, so that keys sort by
distance and then by index and no two are equal: the k smallest keys are the same however the distances were cut into
blocks. Few entries ever become keys. A bound that at least k entries of a row do not exceed lets one vectorized
comparison drop nearly all others, and costs one pass of minima.
"""

from __future__ import annotations

import numpy as np

NO_ENTRY = np.iinfo(np.int64).max
"""The key of an entry that is not there; larger than any other."""

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
    bits = (distances + np.float32(0)).view(np.int32)  # + 0 turns −0, whose bits sort apart, into 0
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # negative floats sort downwards by their bits
    return (ordered.astype(np.int64) << _INDEX_BITS) | indices


def key_indices(keys: np.ndarray) -> np.ndarray:
    """The indices in some keys, int64."""
    return keys & ((1 << _INDEX_BITS) - 1)


def key_distances(keys: np.ndarray) -> np.ndarray:
    """The float32 distances in some keys; NaN where there is no entry."""
    ordered = (keys >> _INDEX_BITS).astype(np.int32)
    return (ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def kth_smallest(values: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest value of each row, or the largest finite float where a row is shorter.

    Args:
        values: (R, C) float32, +inf where there is no entry.
        k: at least 1.

    Returns:
        (R,) float32, finite.
    """
    largest = np.finfo(np.float32).max
    if values.shape[1] < k:
        return np.full(len(values), largest, dtype=np.float32)
    return np.minimum(np.partition(values, k - 1, axis=1)[:, k - 1], largest)


def group_minima(block: np.ndarray) -> np.ndarray:
    """The smallest distance of each group of 32 columns of a row; a group takes every (C / 32)-th column.

    Args:
        block: (R, C) float32, C a multiple of 32.

    Returns:
        (R, C / 32) float32.
    """
    groups = block.shape[1] // _ENTRIES_PER_MINIMUM
    minima: np.ndarray = block.reshape(len(block), _ENTRIES_PER_MINIMUM, groups).min(axis=1)
    return minima


def row_bounds(block: np.ndarray, k: int) -> np.ndarray:
    """A distance that at least k entries of each row do not exceed (all of them, where a row has fewer).

    Args:
        block: (R, C) float32, +inf where there is no entry; C a multiple of 32.
        k: at least 1.

    Returns:
        (R,) float32, finite; close to the k-th smallest distance.
    """
    # The k smallest of the groups' minima are k entries of the row.
    return kth_smallest(block if block.shape[1] < k * _ENTRIES_PER_MINIMUM else group_minima(block), k)


def members_of_groups(group: np.ndarray, groups: int) -> np.ndarray:
    """Columns of the entries in groups as :func:`group_minima` makes them.

    Args:
        group: (M,) int64, which groups.
        groups: how many there are.

    Returns:
        (M, 32) int64.
    """
    return group[:, None] + groups * np.arange(_ENTRIES_PER_MINIMUM)


def places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a matrix's true elements, row by row; many times faster than ``np.nonzero`` on few."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


class NearestEntries:
    """The k nearest entries offered so far to each of N images.

    Different threads may offer to different images.

    Args:
        images: N.
        k: entries to keep, at least 1.
    """

    def __init__(self, images: int, k: int) -> None:
        self.keys: np.ndarray = np.full((images, k), NO_ENTRY)
        """(N, k) int64, ascending in each row."""

    def bounds(self, first: int, last: int) -> np.ndarray:
        """Largest distance that still enters the list of images first .. last - 1, (last - first,) float32, finite."""
        farthest = self.keys[first:last, -1]
        return np.where(farthest == NO_ENTRY, np.finfo(np.float32).max, key_distances(farthest))

    def offer(self, first: int, owners: np.ndarray, keys: np.ndarray) -> None:
        """Merge entries into the lists of the images they are offered to.

        Args:
            first: image that owner 0 stands for.
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
