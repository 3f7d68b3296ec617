from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional import (
    k_reciprocal_rerank,
    knn,
    reciprocal_encoding,
    retrieval_metrics_from_distances,
    shared_minima,
)
from tests.fixtures.retrieval_cases import Case, exact_case, golden, random_case, reference_rerank


@pytest.mark.parametrize("name", ["rr_default", "rr_lambda1"])
def test_golden_cases(name: str) -> None:
    case = golden(name)
    reranked = k_reciprocal_rerank(
        torch.from_numpy(case["qf"]),
        torch.from_numpy(case["gf"]),
        k1=int(case["k1"]),
        k2=int(case["k2"]),
        lambda_value=float(case["lam"]),
    )
    np.testing.assert_allclose(reranked, case["reranked"], atol=1e-5)
    ids = [torch.from_numpy(case[key]) for key in ("q_pids", "g_pids", "q_camids", "g_camids")]
    result = retrieval_metrics_from_distances(reranked, *ids, max_rank=len(case["torchreid_cmc"]))
    assert result.mAP == pytest.approx(float(case["torchreid_mAP"]), abs=1e-6)
    np.testing.assert_allclose(result.cmc, case["torchreid_cmc"], atol=1e-6)


def assert_matches_reference(case: Case, k1: int, k2: int, lambda_value: float) -> None:
    reranked = k_reciprocal_rerank(*case.features, k1=k1, k2=k2, lambda_value=lambda_value)
    assert reranked.dtype == torch.float32
    np.testing.assert_allclose(reranked, reference_rerank(case, k1, k2, lambda_value), atol=1e-5)


@pytest.mark.parametrize("lambda_value", [0, 0.3, 1])
@pytest.mark.parametrize(
    ("k1", "k2"), [(1, 1), (2, 1), (3, 2), (5, 3), (7, 6), (9, 1), (11, 2), (13, 6), (20, 6), (4, 12), (300, 6)]
)
def test_matches_the_reference(k1: int, k2: int, lambda_value: float) -> None:
    assert_matches_reference(random_case(k1, queries=9, gallery=67, people=6), k1, k2, lambda_value)


@pytest.mark.parametrize("seed", range(4))
def test_ties_go_to_the_smaller_index(seed: int) -> None:
    # Cosines are exact multiples of 1/4 here: nearly every neighborhood is decided by ties.
    assert_matches_reference(exact_case(seed, queries=14, gallery=70), 9, 4, 0.3)


def test_duplicate_images() -> None:
    case = random_case(1, queries=10, gallery=66, people=5)
    case.gallery_features[40:52] = case.gallery_features[0]
    case.query_features[3:5] = case.gallery_features[0]
    reranked = k_reciprocal_rerank(*case.features, k1=5, k2=2)
    assert torch.equal(reranked[3], reranked[4])
    # The image and its copies are told apart by their index alone, so they are near, not equally near.
    copies = torch.cat([torch.tensor([0]), torch.arange(40, 52)])
    others = torch.ones(66, dtype=torch.bool).index_fill(0, copies, False)
    assert reranked[3, copies].max() < reranked[3, others].min()


def test_all_distances_equal() -> None:
    orthogonal = torch.eye(24)
    assert_matches_reference(
        dataclasses.replace(random_case(0), query_features=orthogonal[:4], gallery_features=orthogonal[4:]), 5, 3, 0.3
    )
    reranked = k_reciprocal_rerank(torch.ones(3, 4), torch.ones(70, 4))
    assert torch.isfinite(reranked).all()


def test_one_query_and_one_entry() -> None:
    features = torch.tensor([[1.0, 0]]), torch.tensor([[0.6, 0.8]])
    case = dataclasses.replace(random_case(0), query_features=features[0], gallery_features=features[1])
    assert_matches_reference(case, 20, 6, 0.3)
    assert_matches_reference(case, 20, 1, 0.3)


def test_zero_features_stay_finite() -> None:
    case = random_case(2)
    case.gallery_features[5] = 0
    case.query_features[1] = 0
    assert torch.isfinite(k_reciprocal_rerank(*case.features)).all()


def test_order_of_the_gallery_does_not_matter_without_ties() -> None:
    query, gallery = random_case(3).features
    order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    shuffled = k_reciprocal_rerank(query, gallery[order], k1=7, k2=3)
    torch.testing.assert_close(shuffled, k_reciprocal_rerank(query, gallery, k1=7, k2=3)[:, order], atol=1e-6, rtol=0)


def test_length_of_features_does_not_matter() -> None:
    case = exact_case(4)
    stretched = [features * 2.0 ** torch.randint(-8, 8, (len(features), 1)) for features in case.features]
    assert torch.equal(k_reciprocal_rerank(*stretched), k_reciprocal_rerank(*case.features))


@pytest.mark.parametrize(
    "case",
    [
        exact_case(5, queries=130, gallery=300),
        pytest.param(
            random_case(6, queries=130, gallery=300, people=30, dimension=300),
            marks=pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="other BLAS were not studied"),
        ),
    ],
)
@pytest.mark.usefixtures("restore_threads")
def test_result_depends_neither_on_threads_nor_on_block_sizes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reranked = k_reciprocal_rerank(*case.features, k1=9, k2=4)
    for threads, panel, rows, columns, pairs in (
        (1, 64, 1, 33, 1),
        (3, 128, 40, 7, 1000),
        (2, 1024, 64, 4096, 1 << 30),
    ):
        torch.set_num_threads(threads)
        monkeypatch.setattr(knn, "_MOST_PANEL_ROWS", panel)
        monkeypatch.setattr(knn, "_ROWS_AT_ONCE", rows)
        monkeypatch.setattr(knn, "_COLUMNS_AT_ONCE", columns)
        monkeypatch.setattr(shared_minima, "_PAIRS_AT_ONCE", pairs)
        monkeypatch.setattr(reciprocal_encoding, "_COMPARED_AT_ONCE", rows)
        assert torch.equal(k_reciprocal_rerank(*case.features, k1=9, k2=4), reranked)


def test_inputs_are_left_as_they_are() -> None:
    query, gallery = random_case(7).features
    before = query.clone(), gallery.clone()
    k_reciprocal_rerank(query, gallery)
    assert torch.equal(query, before[0])
    assert torch.equal(gallery, before[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or not asked for: -m gpu")
def test_cuda_gives_the_result_of_the_cpu() -> None:
    case = exact_case(8, queries=130, gallery=300)
    on_cuda = k_reciprocal_rerank(*(features.cuda() for features in case.features))
    assert on_cuda.is_cuda
    assert torch.equal(on_cuda.cpu(), k_reciprocal_rerank(*case.features))


@pytest.mark.parametrize("options", [{"k1": 0}, {"k2": 0}, {"lambda_value": -0.1}, {"lambda_value": 1.1}])
def test_parameters_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="Re-ranking needs k1 >= 1"):
        k_reciprocal_rerank(*random_case(9).features, **options)


def test_features_that_are_not_finite_are_refused() -> None:
    query, gallery = random_case(10).features
    gallery[3, 3] = torch.inf
    with pytest.raises(UserError, match=r"gallery_features holds .* the first is row 3"):
        k_reciprocal_rerank(query, gallery)
    with pytest.raises(UserError, match="is empty"):
        k_reciprocal_rerank(query, torch.empty(0, 24))
