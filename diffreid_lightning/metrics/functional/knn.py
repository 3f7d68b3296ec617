"""Find the k nearest neighbors of every image among all images, from half of the pairwise products.

The distance between two images is computed once and offered to both. A panel of rows against all columns from the
panel's first row on covers the upper triangle; nothing larger than a panel is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.metrics.functional.tiled_matmul import (
    ProductColumns,
    allocate_rows,
    exact_products,
    inverse,
    norms,
    row_stride,
    rows_per_tile,
    whole_tiles,
)
from diffreid_lightning.metrics.functional.topk import (
    NO_ENTRY,
    NearestEntries,
    entry_keys,
    group_minima,
    key_distances,
    key_indices,
    kth_smallest,
    members_of_groups,
    places,
)

_PANEL_BYTES = 192 << 20
_MOST_PANEL_ROWS = 1024  # a panel's square on the diagonal is computed whole: taller panels waste more
_ROWS_AT_ONCE = 32
_COLUMNS_AT_ONCE = 1024
_COLUMNS_IN_CACHE = 8192  # a piece of 32 rows is a megabyte, and is gone over several times
_PAIRS_AT_ONCE = 256
_PAIRS_AT_ONCE_ON_DEVICE = 1 << 14


class PooledFeatures:
    """Sets of features as one pool of N images, without copying them; images of the first set come first.

    Args:
        sets: (n, D) float32, contiguous, on one device; each under the name that errors call it.

    Raises:
        UserError: a feature is not finite.
    """

    def __init__(self, **sets: Tensor) -> None:
        self.parts = tuple(sets.values())
        self.inverse_norms = tuple(inverse(norms(name, part)) for name, part in sets.items())
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def cosine_distances(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosine distances of given pairs of images.

        Args:
            left: (P,) int64 in 0 .. N - 1.
            right: (P,) int64.

        Returns:
            (P,) float32, at least 0.
        """
        on_cpu = self.parts[0].device.type == "cpu"
        step = _PAIRS_AT_ONCE if on_cpu else _PAIRS_AT_ONCE_ON_DEVICE
        products = np.empty(len(left), dtype=np.float32)

        def multiply(start: int) -> None:
            pairs = slice(start, start + step)
            one, other = self._rows(left[pairs]), self._rows(right[pairs])
            # numpy gathers and multiplies small pieces three times as fast as torch.
            products[pairs] = (
                np.einsum("pd,pd->p", one.numpy(), other.numpy()) if on_cpu else (one * other).sum(dim=1).cpu().numpy()
            )

        # Each piece on one thread: it fits the cache and is too small to be shared out.
        with ThreadPoolExecutor(torch.get_num_threads() if on_cpu else 1) as workers:
            list(workers.map(multiply, range(0, len(left), step)))
        scale = np.concatenate([part.cpu().numpy() for part in self.inverse_norms])
        return np.abs(1 - products * (scale[left] * scale[right]))

    def _rows(self, images: np.ndarray) -> Tensor:
        """Features of some images, (P, D)."""
        part_of = np.searchsorted(self._starts, images, side="right") - 1
        parts = np.unique(part_of)
        if len(parts) == 1:
            return self._of_part(parts[0], images)
        rows = self.parts[0].new_empty(len(images), self.parts[0].shape[1])
        for part in parts:
            chosen = np.flatnonzero(part_of == part)
            rows[torch.from_numpy(chosen).to(rows.device)] = self._of_part(part, images[chosen])
        return rows

    def _of_part(self, number: int, images: np.ndarray) -> Tensor:
        part = self.parts[number]
        images = images - self._starts[number]
        if part.device.type == "cpu":
            return torch.from_numpy(np.take(part.numpy(), images, axis=0))
        return part[torch.from_numpy(images).to(part.device)]


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """Nearest neighbors in a pool of N images.

    Args:
        indices: (N, k) int64, nearest first, ties by index; -1 where an image has fewer than k.
        distances: (N, k) float32 cosine distances; NaN where an image has fewer than k.
        farthest: (N,) float32, the largest distance from each image to any.
    """

    indices: np.ndarray
    distances: np.ndarray
    farthest: np.ndarray


def nearest_neighbors(
    pool: PooledFeatures, k: int, *, query_gallery: np.ndarray | None = None, groups: np.ndarray | None = None
) -> Neighborhoods:
    """Find the ``k`` nearest images of every image by cosine distance.

    Args:
        pool: the images.
        k: neighbors to keep, at least 1.
        query_gallery: (Q, G) float32 for a pool of queries and gallery, overwritten with the distances between them;
            None if they are not needed.
        groups: (N,) ascending numbers, for a pool of one set; an image's neighbors are then those of other groups.
            None: any image is a neighbor, the image itself too.

    Returns:
        The neighbors; the same for every number of threads.
    """
    search = _TriangleSearch(pool, k, query_gallery, groups)
    with exact_products(), ThreadPoolExecutor(torch.get_num_threads()) as workers:
        for panel in search.panels():
            search.visit(*panel, workers)
    return search.result()


class _TriangleSearch:
    """The walk over panels. Each set of features is padded to whole tiles, so columns are counted with padding."""

    def __init__(
        self, pool: PooledFeatures, k: int, query_gallery: np.ndarray | None, groups: np.ndarray | None
    ) -> None:
        self._pool = pool
        self._query_gallery = np.empty((0, 0), dtype=np.float32) if query_gallery is None else query_gallery
        self._columns = tuple(ProductColumns(part) for part in pool.parts)
        *offsets, self._total = np.cumsum([0, *(columns.padded for columns in self._columns)]).tolist()
        self._offsets = tuple(offsets)
        self._nearest = NearestEntries(self._total, k)
        self._farthest = np.zeros(self._total, dtype=np.float32)
        self._real = np.zeros(self._total, dtype=np.bool_)
        self._scale = np.zeros(self._total, dtype=np.float32)
        for offset, scale in zip(self._offsets, pool.inverse_norms, strict=True):
            self._real[offset : offset + len(scale)] = True
            self._scale[offset : offset + len(scale)] = scale.cpu().numpy()
        self._groups = None if groups is None else np.full(self._total, groups[-1])
        if self._groups is not None:
            self._groups[self._real] = groups
        stride = row_stride(self._total)
        budget = min(_PANEL_BYTES, _MOST_PANEL_ROWS * stride * 4)
        self._rows = tuple(rows_per_tile(columns.count, stride, budget) for columns in self._columns)
        device = pool.parts[0].device
        self._buffer = allocate_rows(max(self._rows), stride, device=device)
        self._on_cpu = self._buffer if device.type == "cpu" else allocate_rows(max(self._rows), stride)

    def panels(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (first image, number of images, products), the last with the columns from the first image on."""
        for part, offset, height in zip(self._pool.parts, self._offsets, self._rows, strict=True):
            for start in range(0, len(part), height):
                rows = part[start : start + height]
                left = part.new_zeros(whole_tiles(len(rows)), part.shape[1])
                left[: len(rows)] = rows
                first = offset + start
                width = self._total - first
                products = self._buffer[: len(left), :width]
                for columns, column_offset in zip(self._columns, self._offsets, strict=True):
                    skipped = max(first - column_offset, 0)
                    if skipped < columns.padded:
                        begin = column_offset + skipped - first
                        columns.product_into(products[:, begin : begin + columns.padded - skipped], left, skipped)
                on_cpu = self._on_cpu[: len(rows), :width]
                if self._on_cpu is not self._buffer:
                    on_cpu.copy_(products[: len(rows)])
                yield first, len(rows), on_cpu.numpy()

    def visit(self, first: int, count: int, block: np.ndarray, workers: Executor) -> None:
        """Turn a panel's products into distances and offer them to its rows, then to its columns."""
        starts = range(0, count, _ROWS_AT_ONCE)
        extremes = list(workers.map(lambda row: self._visit_rows(first, row, block[row : row + _ROWS_AT_ONCE]), starts))
        nearest = np.stack([low for low, _ in extremes])
        farthest = np.stack([high for _, high in extremes]).max(axis=0)
        np.maximum(self._farthest[first:], farthest, out=self._farthest[first:])
        beyond = range(count, block.shape[1], _COLUMNS_AT_ONCE)
        list(
            workers.map(
                lambda column: self._visit_columns(
                    first,
                    column,
                    block[:, column : column + _COLUMNS_AT_ONCE],
                    nearest[:, column : column + _COLUMNS_AT_ONCE],
                ),
                beyond,
            )
        )

    def _visit_rows(self, first: int, row: int, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offer each row its columns; return the smallest and largest distance in each column."""
        images = slice(first + row, first + row + len(block))
        smallest, largest = np.empty((2, block.shape[1]), dtype=np.float32)
        minima = []
        for start in range(0, block.shape[1], _COLUMNS_IN_CACHE):
            columns = slice(start, start + _COLUMNS_IN_CACHE)
            part = block[:, columns]
            self._to_distances(part, images, first + start)
            padding = np.flatnonzero(~self._real[first + start : first + start + part.shape[1]])
            part[:, padding] = 0
            np.maximum(self._farthest[images], part.max(axis=1), out=self._farthest[images])
            part.max(axis=0, out=largest[columns])
            part[:, padding] = np.inf
            self._hide_groups(part, images, first + start)
            part.min(axis=0, out=smallest[columns])
            minima.append(group_minima(part))
        if images.start < len(self._query_gallery):
            gallery = self._offsets[1] - first
            self._query_gallery[images] = block[:, gallery : gallery + self._query_gallery.shape[1]]
        owner, column = self._near_in_rows(images, block, minima)
        self._nearest.offer(images.start, owner, entry_keys(block[owner, column], first + column))
        return smallest, largest

    def _to_distances(self, products: np.ndarray, images: slice, first: int) -> None:
        """Overwrite products of some images with those from ``first`` on by their cosine distances."""
        # One factor for both norms: the distance from a to b has the same bits as that from b to a.
        scale = np.multiply.outer(self._scale[images], self._scale[first : first + products.shape[1]])
        np.multiply(products, scale, out=products)
        np.subtract(1, products, out=products)
        np.absolute(products, out=products)  # of distances that rounding made negative, the square counts

    def _hide_groups(self, distances: np.ndarray, images: slice, first: int) -> None:
        """Take the images of their own groups out of the distances of some images to those from ``first`` on."""
        if self._groups is None:
            return
        columns = self._groups[first : first + distances.shape[1]]
        rows = self._groups[images]
        begins, ends = (np.searchsorted(columns, rows, side=side) for side in ("left", "right"))
        for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            distances[row, begin:end] = np.inf

    def _near_in_rows(
        self, images: slice, block: np.ndarray, minima: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the distances that may be among the nearest of their row."""
        k = self._nearest.keys.shape[1]
        known = self._nearest.bounds(images.start, images.stop)
        if sum(part.shape[1] for part in minima) < k:
            return places(block <= np.minimum(kth_smallest(block, k), known)[:, None])
        # The k smallest of the groups' minima are k entries of the row, and only few groups have one so small.
        bounds = np.minimum(kth_smallest(np.concatenate(minima, axis=1), k), known)
        owners, columns = [], []
        for start, part in zip(range(0, block.shape[1], _COLUMNS_IN_CACHE), minima, strict=True):
            owner, group = places(part <= bounds[:, None])
            column = start + members_of_groups(group, part.shape[1])
            near = block[owner[:, None], column] <= bounds[owner, None]
            owners.append(np.repeat(owner, near.sum(axis=1)))
            columns.append(column[near])
        owner = np.concatenate(owners)
        order = np.argsort(owner.astype(np.uint16), kind="stable")
        return owner[order], np.concatenate(columns)[order]

    def _visit_columns(self, first: int, column: int, block: np.ndarray, nearest: np.ndarray) -> None:
        """Offer each column its rows, given the smallest distance in it of each group of rows."""
        start = first + column
        bounds = np.minimum(
            kth_smallest(nearest.T, self._nearest.keys.shape[1]), self._nearest.bounds(start, start + block.shape[1])
        )
        row, owner = places(block <= bounds)
        order = np.argsort(owner.astype(np.uint16), kind="stable")
        row, owner = row[order], owner[order]
        self._nearest.offer(start, owner, entry_keys(block[row, owner], first + row))

    def result(self) -> Neighborhoods:
        """The neighbors found, numbered without padding."""
        keys = self._nearest.keys[self._real]
        missing = keys == NO_ENTRY
        number = np.cumsum(self._real) - 1
        indices = number[np.where(missing, 0, key_indices(keys))]
        indices[missing] = -1
        return Neighborhoods(indices, key_distances(keys), self._farthest[self._real])
