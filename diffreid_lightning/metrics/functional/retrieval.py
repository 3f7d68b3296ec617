"""Compute CMC, mAP and mINP by the Re-ID protocol: single query, multi-shot gallery.

For each query, gallery entries with the same person AND the same camera are removed; a query without a match is
skipped, not scored 0. Average precision is rectangular (the mean of the precision at each match); equally near entries
keep the gallery's order. This is the Market-1501 protocol (Zheng et al., "Scalable Person Re-identification: A
Benchmark", ICCV 2015) as implemented by the established libraries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.metrics.functional.checks import check_distance, check_features, check_pairs
from diffreid_lightning.metrics.functional.identity_matches import IdentityPairs
from diffreid_lightning.metrics.functional.rank_counting import count_ranks
from diffreid_lightning.metrics.functional.result import RetrievalResult
from diffreid_lightning.metrics.functional.tiled_matmul import (
    Distance,
    DistanceTiles,
    allocate_rows,
    exact_products,
    row_stride,
    rows_per_tile,
)

_TILE_BYTES = 160 << 20  # large for fast products; with the workers' buffers still below 256 MiB


def retrieval_metrics(
    query_features: Tensor,
    gallery_features: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor,
    gallery_camids: Tensor,
    *,
    distance: Distance = "cosine",
    max_rank: int = 50,
) -> RetrievalResult:
    """Evaluate features: distances and ranks in one pass, with less than 256 MiB besides the features.

    Products are computed in float32 on the features' device (float32 features are not copied), ranks on the CPU,
    precision in float64. No id is special: drop junk images (Market-1501's −1) when reading the dataset.

    Args:
        query_features: (Q, D), any floating dtype; need not be normalized.
        gallery_features: (G, D), on the same device.
        query_pids: (Q,) integer person ids.
        gallery_pids: (G,) integer person ids.
        query_camids: (Q,) integer camera ids.
        gallery_camids: (G,) integer camera ids.
        distance: ``"cosine"`` or ``"euclidean"``.
        max_rank: depth of the CMC curve; beyond the gallery's length the curve keeps its last value.

    Returns:
        The metrics, independent of the number of threads.

    Raises:
        UserError: the inputs are empty or do not fit together, features are not finite, or no query has a match.
    """
    check_distance(distance)
    query_features, gallery_features = check_features(query_features=query_features, gallery_features=gallery_features)
    pairs = check_pairs(
        (len(query_features), len(gallery_features)), query_pids, gallery_pids, query_camids, gallery_camids
    )
    queries = _rankable_queries(pairs)
    with exact_products():
        distances = DistanceTiles(query_features, gallery_features, distance)
        rows = rows_per_tile(len(queries), distances.stride, _TILE_BYTES)
        tiles = distances.tiles(torch.from_numpy(queries).to(query_features.device), rows)
        return _evaluate(tiles, pairs, queries, max_rank)


def retrieval_metrics_from_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor,
    gallery_camids: Tensor,
    *,
    max_rank: int = 50,
) -> RetrievalResult:
    """Evaluate a distance matrix, for example re-ranked distances; see :func:`retrieval_metrics`.

    Args:
        distances: (Q, G), any floating dtype, smaller = nearer; not modified, compared in its own precision.
        query_pids: (Q,) integer person ids.
        gallery_pids: (G,) integer person ids.
        query_camids: (Q,) integer camera ids.
        gallery_camids: (G,) integer camera ids.
        max_rank: depth of the CMC curve.

    Returns:
        The metrics.

    Raises:
        UserError: the inputs are empty or do not fit together, a distance is not finite, or no query has a match.
    """
    if distances.ndim != 2 or not distances.is_floating_point():
        raise UserError(
            "distances must be a matrix of floats, one row per query.",
            found=f"shape {tuple(distances.shape)}, {distances.dtype}",
        )
    if not distances.numel():
        raise UserError("distances is empty.", found=f"shape {tuple(distances.shape)}")
    # Both extrema are NaN if any value is; an infinity is one of them.
    if not torch.isfinite(torch.stack(torch.aminmax(distances.detach()))).all():
        raise UserError("distances holds values that are not finite.", remedy="fix their computation.")
    queries_count, gallery_count = distances.shape
    pairs = check_pairs((queries_count, gallery_count), query_pids, gallery_pids, query_camids, gallery_camids)
    queries = _rankable_queries(pairs)
    rows = rows_per_tile(len(queries), row_stride(gallery_count), _TILE_BYTES // 2)
    return _evaluate(_copy_tiles(distances.detach(), queries, rows), pairs, queries, max_rank)


def _rankable_queries(pairs: IdentityPairs) -> np.ndarray:
    """Return the queries with a match, most matches first, so that similar ones share a group of comparisons."""
    order = np.argsort(-pairs.matches, kind="stable")
    queries = order[: np.count_nonzero(pairs.matches)]
    if not len(queries):
        raise UserError(
            f"None of the {len(order)} queries has a match in the gallery.",
            looked_for="a gallery entry with the query's person id and another camera id",
            remedy="check that query and gallery are from one dataset, and that camera ids are not all equal.",
        )
    return queries


def _copy_tiles(distances: Tensor, queries: np.ndarray, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the given distances in the form of :meth:`DistanceTiles.tiles`."""
    dtype = torch.float64 if distances.dtype == torch.float64 else torch.float32
    count = distances.shape[1]
    tile = allocate_rows(rows, row_stride(count), dtype=dtype)
    tile[:, count:] = torch.inf
    for start in range(0, len(queries), rows):
        chosen = torch.from_numpy(queries[start : start + rows]).to(distances.device)
        part = tile[: len(chosen)]
        part[:, :count] = distances[chosen]
        yield start, part


def _evaluate(
    tiles: Iterable[tuple[int, Tensor]], pairs: IdentityPairs, queries: np.ndarray, max_rank: int
) -> RetrievalResult:
    """Rank the matches of every tile and summarize them.

    Args:
        tiles: position of a tile's first row in ``queries``, and its distances; junk is overwritten.
        pairs: matches and junk.
        queries: (V,) query of each row.
        max_rank: depth of the CMC curve.
    """
    check_range("max_rank", max_rank, 1)
    ap = np.empty(len(pairs.matches))
    inp = np.empty(len(pairs.matches))
    first_ranks = np.empty(len(queries), dtype=np.int64)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start, tile in tiles:
            some = queries[start : start + len(tile)]
            distances = tile.numpy()
            row, column, junk = pairs.list(some)
            distances[row[junk], column[junk]] = np.inf
            row, column = row[~junk], column[~junk]
            ranks = count_ranks(pool, distances, row, column)
            ap[some], inp[some], first_ranks[start : start + len(tile)] = _summarize(row, ranks)
    valid = np.sort(queries)
    hits = np.bincount(np.minimum(first_ranks, max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return RetrievalResult(
        cmc=torch.from_numpy(np.cumsum(hits) / len(queries)),
        mAP=float(ap[valid].mean()),
        mINP=float(inp[valid].mean()),
        ap=torch.from_numpy(ap[valid]),
        inp=torch.from_numpy(inp[valid]),
        valid=torch.from_numpy(valid),
    )


def _summarize(rows: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return average precision, inverse negative penalty and first rank of each row, from the ranks of its matches.

    Args:
        rows: (P,) ascending from 0, every row present.
        ranks: (P,) ranks, in any order within a row.
    """
    ranks = ranks[np.lexsort((ranks, rows))]
    starts = np.searchsorted(rows, np.arange(rows[-1] + 1))
    lengths = np.diff(starts, append=len(rows))
    hits = np.arange(len(rows)) - np.repeat(starts, lengths) + 1
    ap = np.add.reduceat(hits / ranks, starts) / lengths
    inp = lengths / ranks[starts + lengths - 1]
    return ap, inp, ranks[starts]
