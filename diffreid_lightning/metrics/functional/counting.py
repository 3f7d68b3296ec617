"""Ranks by counting: how many entries of a row are nearer than a match.

A match's rank is 1 + the entries strictly nearer + the equally near ones with a smaller gallery index. Counting costs
one comparison per entry and match, several of them in one instruction, and beats sorting the row by far as long as an
identity has tens of matches. It runs in numpy: its comparison writes bytes at the speed of memory, and one pass
over a block of rows per worker thread keeps the number of parallel operations small.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch

from diffreid_lightning.metrics.functional.products import RowLayout

_COMPARISONS = 1 << 21  # comparisons (one byte each) that a worker makes at once: 2 MiB, near the core's cache
_ALL_COMPARISONS = 1 << 25  # and that all workers make at once


class RankCounter:
    """Worker threads that count ranks; as many as torch computes with. Results do not depend on their number.

    Use as a context manager.

    Args:
        layout: how the rows of distances lie in memory.
    """

    def __init__(self, layout: RowLayout) -> None:
        workers = torch.get_num_threads()
        self._layout = layout
        self._comparisons = max(min(_COMPARISONS, _ALL_COMPARISONS // workers), layout.stride)
        self._pool = ThreadPoolExecutor(workers)
        self._buffers: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        for _ in range(workers):
            self._buffers.put(np.empty(self._comparisons, dtype=np.bool_))

    def __enter__(self) -> RankCounter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ranks(self, distances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Rank of some entries within their rows, 1 for the nearest, ties by column.

        Args:
            distances: (R, stride) with +inf where an entry does not take part (junk, padding).
            rows: (P,) int64, ascending: the row of each entry to rank.
            columns: (P,) int64, ascending within a row: its column.

        Returns:
            (P,) int64 ranks.
        """
        ranks = np.empty(len(rows), dtype=np.int64)
        starts = np.searchsorted(rows, np.arange(len(distances) + 1))
        tasks = [
            self._pool.submit(self._rank_group, distances, columns, starts, group, ranks)
            for group in self._groups(np.diff(starts))
        ]
        for task in tasks:
            task.result()
        return ranks

    def _groups(self, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
        """Cut the rows into runs whose comparisons, every row counted at its run's longest, fit one buffer."""
        capacity = self._comparisons // self._layout.stride
        begin, longest = 0, 0
        for row, length in enumerate(lengths.tolist()):
            longest = max(longest, length)
            if row > begin and (row + 1 - begin) * longest > capacity:
                yield begin, row
                begin, longest = row, length
        yield begin, len(lengths)

    def _rank_group(
        self, distances: np.ndarray, columns: np.ndarray, starts: np.ndarray, group: tuple[int, int], ranks: np.ndarray
    ) -> None:
        """Rank the entries of a run of rows into ``ranks``."""
        begin, end = group
        part = slice(starts[begin], starts[end])
        lengths = np.diff(starts[begin : end + 1])
        row = np.repeat(np.arange(end - begin), lengths)
        slot = np.arange(len(row)) - np.repeat(starts[begin:end] - starts[begin], lengths)
        block = distances[begin:end]
        column = columns[part]
        threshold = block[row, column]
        padded = np.full((end - begin, lengths.max()), -np.inf, dtype=block.dtype)
        padded[row, slot] = threshold

        buffer = self._buffers.get()
        try:
            nearer = self._count(np.less, block, padded, buffer)[row, slot]
            no_farther = self._count(np.less_equal, block, padded, buffer)[row, slot]
        finally:
            self._buffers.put(buffer)
        rank = 1 + nearer
        for tied in np.flatnonzero(no_farther - nearer > 1):
            rank[tied] += np.count_nonzero(block[row[tied], : column[tied]] == threshold[tied])
        ranks[part] = rank

    def _count(self, compare: np.ufunc, block: np.ndarray, thresholds: np.ndarray, buffer: np.ndarray) -> np.ndarray:
        """Count, for each (row, threshold), the entries of the row that ``compare`` says yes to."""
        layout, (rows, slots) = self._layout, thresholds.shape
        counts = np.empty((rows, slots), dtype=np.int64)
        step = max(self._comparisons // (rows * layout.stride), 1)
        for first in range(0, slots, step):
            some = thresholds[:, first : first + step, None]
            shape = (rows, some.shape[1], layout.blocks, layout.width)
            answers = buffer[: np.prod(shape)].reshape(rows, some.shape[1], layout.stride)
            compare(block[:, None, :], some, out=answers)
            # Eight answers a word: a block's sum of words holds eight byte-wise counts that cannot overflow.
            bytewise = answers.view(np.int64).reshape(*shape[:3], layout.width // 8).sum(axis=-1)
            counts[:, first : first + step] = bytewise.view(np.uint8).reshape(*shape[:2], -1).sum(axis=-1)
        return counts
