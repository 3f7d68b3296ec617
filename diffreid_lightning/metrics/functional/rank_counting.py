"""Compute ranks by counting the entries of a row that are nearer than a match.

A match's rank is 1 + the entries strictly nearer + the equally near ones with a smaller gallery index. Entries beyond a
row's farthest match do not count: one comparison drops them, the remaining few are sorted by value, and bisection finds
the matches among them. NumPy sorts floats with vector instructions; a few rows at a time stay in a core's cache.
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import torch

_ROWS_AT_ONCE = 16
_BYTES_AT_ONCE = 64 << 20  # for all workers together


def count_ranks(pool: Executor, distances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rank entries within their rows, 1 for the nearest, ties by column.

    Args:
        pool: as many threads as torch has; results do not depend on their number.
        distances: (R, stride), +inf for excluded entries (junk, padding).
        rows: (P,) int64, ascending: the row of each entry to rank.
        columns: (P,) int64, ascending within a row: its column.

    Returns:
        (P,) int64 ranks.
    """
    # A row needs a mask (one byte per entry) and at worst a copy (four or eight).
    affordable = _BYTES_AT_ONCE // (9 * distances.shape[1] * torch.get_num_threads())
    at_once = max(min(_ROWS_AT_ONCE, affordable), 1)
    ranks = np.empty(len(rows), dtype=np.int64)
    present, starts = np.unique(rows, return_index=True)
    starts = np.append(starts, len(rows))
    tasks = []
    for first in range(0, len(present), at_once):
        some = present[first : first + at_once]
        part = starts[first : first + len(some) + 1]
        entries = slice(part[0], part[-1])
        tasks.append(pool.submit(_rank_rows, distances, some, part - part[0], columns[entries], ranks[entries]))
    for task in tasks:
        task.result()
    return ranks


def _rank_rows(
    distances: np.ndarray, rows: np.ndarray, starts: np.ndarray, columns: np.ndarray, ranks: np.ndarray
) -> None:
    """Rank the entries of a few rows.

    Args:
        distances: (R, stride).
        rows: (n,) ascending, indices of the rows.
        starts: (n + 1,) start of each row's entries in ``columns``.
        columns: (P,) the entries.
        ranks: (P,) overwritten.
    """
    # Consecutive rows are read in place, others are copied.
    contiguous = rows[-1] - rows[0] + 1 == len(rows)
    block = distances[rows[0] : rows[-1] + 1] if contiguous else distances[rows]
    row = np.repeat(np.arange(len(rows)), np.diff(starts))
    threshold = block[row, columns]
    candidate = block <= np.maximum.reduceat(threshold, starts[:-1])[:, None]
    nearest = block[candidate]
    ends = np.cumsum(np.count_nonzero(candidate, axis=1))
    no_farther = np.empty(len(columns), dtype=np.int64)
    begin = 0
    for number, end in enumerate(ends.tolist()):
        values, entries = nearest[begin:end], slice(starts[number], starts[number + 1])
        values.sort()
        ranks[entries] = values.searchsorted(threshold[entries], side="left")
        no_farther[entries] = values.searchsorted(threshold[entries], side="right")
        begin = end
    for tied in np.flatnonzero(no_farther - ranks > 1):
        ranks[tied] += np.count_nonzero(block[row[tied], : columns[tied]] == threshold[tied])
    ranks += 1
