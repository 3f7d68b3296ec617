from __future__ import annotations

import numpy as np
import pytest

from diffreid_lightning.metrics.functional.topk import (
    NO_ENTRY,
    NearestEntries,
    entry_keys,
    group_minima,
    key_distances,
    key_indices,
    members_of_groups,
    row_bounds,
)


def test_keys_sort_by_distance_then_by_index() -> None:
    random = np.random.default_rng(0)
    distances = random.choice(np.float32([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.25, 1e30]), 500)
    indices = random.permutation(500)
    order = np.argsort(entry_keys(distances, indices))
    assert np.array_equal(order, np.lexsort((indices, distances)))


def test_keys_give_back_what_they_hold() -> None:
    distances = np.float32([-1.5, 0, 1e-40, 3e38])
    keys = entry_keys(distances, np.array([0, 5, 2**31, 2**32 - 1]))
    assert np.array_equal(key_distances(keys), distances)
    assert key_indices(keys).tolist() == [0, 5, 2**31, 2**32 - 1]
    assert (keys < NO_ENTRY).all()


@pytest.mark.parametrize("columns", [32, 64, 320, 2048])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_row_bounds_reach_k_entries(columns: int, k: int) -> None:
    block = np.random.default_rng(columns + k).standard_normal((50, columns), dtype=np.float32)
    block[:, ::7] = np.inf
    within = (block <= row_bounds(block, k)[:, None]).sum(axis=1)
    entries = np.isfinite(block).sum(axis=1)
    assert (within >= np.minimum(k, entries)).all()
    assert (within <= entries).all()
    if columns == 2048:
        assert within.mean() < 2 * k + 2


@pytest.mark.parametrize("seed", range(4))
def test_offers_in_any_order_and_portion_keep_the_k_nearest(seed: int) -> None:
    random = np.random.default_rng(seed)
    distances = random.integers(0, 9, (20, 100)).astype(np.float32)  # tied all over
    expected = np.lexsort((np.broadcast_to(np.arange(100), (20, 100)), distances), axis=1)[:, :6]
    nearest = NearestEntries(20, 6)
    for columns in np.array_split(random.permutation(100), 1 + 3 * seed):
        owner, place = np.nonzero(distances[:, columns] <= nearest.bounds(0, 20)[:, None])
        column = columns[place]
        nearest.offer(0, owner, entry_keys(distances[owner, column], column))
    assert np.array_equal(key_indices(nearest.keys), expected)


def test_fewer_entries_than_asked_for() -> None:
    nearest = NearestEntries(2, 3)
    nearest.offer(1, np.array([0]), entry_keys(np.float32([0.5]), np.array([4])))
    nearest.offer(0, np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert (nearest.keys[0] == NO_ENTRY).all()
    assert key_indices(nearest.keys[1, :1]).tolist() == [4]
    assert (nearest.bounds(0, 2) == np.finfo(np.float32).max).all()


def test_groups_have_the_members_whose_minimum_they_give() -> None:
    block = np.random.default_rng(0).random((3, 160), dtype=np.float32)
    members = members_of_groups(np.arange(5), 5)
    assert sorted(members.ravel().tolist()) == list(range(160)), "every column is in one group"
    assert np.array_equal(group_minima(block), block[:, members].min(axis=2))
