"""List the k nearest gallery entries of each query, without those of its person and camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.errors import check_range
from diffreid_lightning.metrics.functional.checks import check_distance, check_features, check_pairs
from diffreid_lightning.metrics.functional.tiled_matmul import Distance, DistanceTiles, exact_products, rows_per_tile
from diffreid_lightning.metrics.functional.topk import (
    NO_ENTRY,
    NearestEntries,
    entry_keys,
    key_indices,
    places,
    row_bounds,
)

_TILE_BYTES = 96 << 20
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class RankList:
    """Gallery entries nearest to each query, without those of its identity and camera.

    Args:
        indices: (Q, top_k) int64 gallery indices, nearest first, ties by index; -1 if a query has fewer entries.
        matches: (Q, top_k) bool, whether the entry has the query's identity.
    """

    indices: Tensor
    matches: Tensor


def rank_list(
    query_features: Tensor,
    gallery_features: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor,
    gallery_camids: Tensor,
    *,
    distance: Distance = "cosine",
    top_k: int = 10,
) -> RankList:
    """Rank the gallery for every query by the protocol of :func:`retrieval_metrics` and keep the first entries.

    Queries without a match are included. Pass only the queries of interest, to save time.

    Args:
        query_features: (Q, D), any floating dtype; need not be normalized.
        gallery_features: (G, D), on the same device.
        query_pids: (Q,) integer person ids.
        gallery_pids: (G,) integer person ids.
        query_camids: (Q,) integer camera ids.
        gallery_camids: (G,) integer camera ids.
        distance: ``"cosine"`` or ``"euclidean"``.
        top_k: entries to keep for each query, at least 1.

    Returns:
        The ranked entries, on the CPU.

    Raises:
        UserError: the inputs are empty or do not fit together, or features are not finite.
    """
    check_distance(distance)
    check_range("top_k", top_k, 1)
    query_features, gallery_features = check_features(query_features=query_features, gallery_features=gallery_features)
    pairs = check_pairs(
        (len(query_features), len(gallery_features)), query_pids, gallery_pids, query_camids, gallery_camids
    )
    nearest = NearestEntries(len(query_features), top_k)
    with exact_products():
        tiles = DistanceTiles(query_features, gallery_features, distance)
        rows = rows_per_tile(len(query_features), tiles.stride, _TILE_BYTES)
        everyone = torch.arange(len(query_features), device=query_features.device)
        for start, tile in tiles.tiles(everyone, rows):
            distances = tile.numpy()[:, : tiles.columns]
            row, column, junk = pairs.list(np.arange(start, start + len(tile)))
            distances[row[junk], column[junk]] = np.inf
            for first in range(0, len(tile), _ROWS_AT_ONCE):
                block = distances[first : first + _ROWS_AT_ONCE]
                row, column = places(block <= row_bounds(block, top_k)[:, None])
                nearest.offer(start + first, row, entry_keys(block[row, column], column))
    indices = torch.from_numpy(np.where(nearest.keys == NO_ENTRY, -1, key_indices(nearest.keys)))
    same_person = gallery_pids.cpu()[indices] == query_pids.cpu()[:, None]
    return RankList(indices, same_person & (indices >= 0))
