from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional import nearest_gallery, rank_list
from tests.fixtures.retrieval_cases import Case, exact_case, pairwise, random_case, ranked_entries


def assert_matches_reference(case: Case, distance: str, top_k: int) -> None:
    lists = rank_list(*case.all, distance=distance, top_k=top_k)
    distances = pairwise(case, distance).round(6)
    assert lists.indices.shape == lists.matches.shape == (len(case.query_pids), top_k)
    for query in range(len(case.query_pids)):
        expected = ranked_entries(distances, case, query)[:top_k]
        missing = top_k - len(expected)
        assert lists.indices[query].tolist() == expected + [-1] * missing
        matches = [bool(case.gallery_pids[entry] == case.query_pids[query]) for entry in expected]
        assert lists.matches[query].tolist() == matches + [False] * missing


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("gallery", "top_k"), [(1, 3), (5, 10), (64, 1), (130, 10), (1000, 5), (1000, 40)])
def test_matches_the_reference(gallery: int, top_k: int, distance: str) -> None:
    assert_matches_reference(random_case(gallery, gallery=gallery), distance, top_k)
    assert_matches_reference(exact_case(gallery, gallery=gallery), distance, top_k)


def test_queries_without_a_match_are_listed_too() -> None:
    case = random_case(0)
    case.query_pids[:] = 77
    lists = rank_list(*case.all)
    assert (lists.indices >= 0).all()
    assert not lists.matches.any()


def test_one_identity_and_camera_leaves_nothing_to_list() -> None:
    case = dataclasses.replace(
        random_case(1, people=1),
        query_camids=torch.zeros(30, dtype=torch.int64),
        gallery_camids=torch.zeros(130, dtype=torch.int64),
    )
    lists = rank_list(*case.all, top_k=4)
    assert (lists.indices == -1).all()
    assert not lists.matches.any()


@pytest.mark.usefixtures("restore_threads")
def test_lists_depend_neither_on_threads_nor_on_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    case = exact_case(2, queries=150, gallery=500)
    lists = rank_list(*case.all, top_k=12)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        monkeypatch.setattr(nearest_gallery, "_TILE_BYTES", 1)
        again = rank_list(*case.all, top_k=12)
        assert torch.equal(again.indices, lists.indices)
        assert torch.equal(again.matches, lists.matches)


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="top_k must be at least 1"):
        rank_list(*random_case(3).all, top_k=0)
    with pytest.raises(UserError, match="query_features holds"):
        rank_list(*dataclasses.replace(random_case(3), query_features=torch.full((30, 24), torch.nan)).all)
    with pytest.raises(UserError, match="There is no distance"):
        rank_list(*random_case(3).all, distance="l1")
    assert np.array_equal(rank_list(*random_case(3).all, top_k=2).indices.shape, (30, 2))
