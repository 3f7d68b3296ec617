from __future__ import annotations

import dataclasses
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional import (
    RetrievalResult,
    retrieval,
    retrieval_metrics,
    retrieval_metrics_from_distances,
)
from diffreid_lightning.metrics.functional.identity_matches import IdentityPairs
from diffreid_lightning.metrics.functional.tiled_matmul import exact_products
from tests.fixtures.retrieval_cases import Case, exact_case, golden, pairwise, random_case, reference_evaluation

EVALUATIONS = ["hand", "clean_cosine", "clean_euclidean", "distractors", "no_match_queries", "ties_quantised"]
DISTANCES = {"cosine": "cosine", "sqeuclidean": "euclidean", "euclidean": "euclidean"}


def assert_close(
    result: RetrievalResult, cmc: object, mean_ap: float, mean_inp: float, ap: object, inp: object
) -> None:
    np.testing.assert_allclose(result.cmc.numpy(), cmc, atol=1e-6)
    np.testing.assert_allclose(result.ap.numpy(), ap, atol=1e-6)
    np.testing.assert_allclose(result.inp.numpy(), inp, atol=1e-6)
    assert result.mAP == pytest.approx(mean_ap, abs=1e-6)
    assert result.mINP == pytest.approx(mean_inp, abs=1e-6)


def assert_same(result: RetrievalResult, other: RetrievalResult) -> None:
    """Equal to the last bit."""
    for field in dataclasses.fields(RetrievalResult):
        mine, theirs = getattr(result, field.name), getattr(other, field.name)
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, field.name


def assert_matches_reference(result: RetrievalResult, distances: np.ndarray, case: Case, max_rank: int) -> None:
    expected = reference_evaluation(distances, case, max_rank)
    assert_close(result, *(expected[key] for key in ("cmc", "mAP", "mINP", "ap", "inp")))
    assert result.valid.tolist() == expected["valid"]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_golden_cases(name: str) -> None:
    case = golden(name)
    ids = [torch.from_numpy(case[key]) for key in ("q_pids", "g_pids", "q_camids", "g_camids")]
    max_rank = int(case["max_rank"])
    results = [retrieval_metrics_from_distances(torch.from_numpy(case["distmat"]), *ids, max_rank=max_rank)]
    if "qf" in case:
        features = torch.from_numpy(case["qf"]), torch.from_numpy(case["gf"])
        distance = DISTANCES[str(case["metric"])]
        results.append(retrieval_metrics(*features, *ids, distance=distance, max_rank=max_rank))
    for result in results:
        mean_ap, mean_inp = float(case["stable/fastreid_mAP"]), float(case["stable/fastreid_mINP"])
        ap, inp = case["stable/fastreid_AP"], case["stable/fastreid_INP"]
        depth = len(case["stable/fastreid_cmc"])  # the libraries cut the curve at the gallery's length
        assert_close(
            dataclasses.replace(result, cmc=result.cmc[:depth]), case["stable/fastreid_cmc"], mean_ap, mean_inp, ap, inp
        )
        np.testing.assert_allclose(result.cmc[:depth], case["stable/torchreid_cmc"], atol=1e-6)
        assert result.mAP == pytest.approx(float(case["stable/torchreid_mAP"]), abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(6))
def test_matches_the_reference(seed: int, distance: str) -> None:
    gallery = (1, 3, 63, 64, 65, 300)[seed]
    case = random_case(seed, queries=70, gallery=gallery, people=1 + 3 * seed)
    result = retrieval_metrics(*case.all, distance=distance, max_rank=20)
    assert_matches_reference(result, pairwise(case, distance), case, 20)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(4))
def test_ties_go_to_the_smaller_gallery_index(seed: int, distance: str) -> None:
    case = exact_case(seed)
    result = retrieval_metrics(*case.all, distance=distance, max_rank=30)
    assert_matches_reference(result, pairwise(case, distance).round(6), case, 30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_given_distances_are_compared_in_their_own_precision(dtype: torch.dtype) -> None:
    case = random_case(3)
    distances = torch.from_numpy(pairwise(case, "cosine")).to(dtype)
    if dtype == torch.float64:
        distances = 1 + distances * 1e-12  # in float32 these are all equal
    result = retrieval_metrics_from_distances(distances, *case.ids, max_rank=10)
    assert_matches_reference(result, distances.double().numpy(), case, 10)


@pytest.mark.parametrize("limit", ["_ROWS_AT_ONCE", "_BYTES_AT_ONCE"])
def test_many_matches_per_query_a_row_at_a_time(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(f"diffreid_lightning.metrics.functional.rank_counting.{limit}", 1)
    case = random_case(5, queries=20, gallery=190, people=2)
    assert_matches_reference(retrieval_metrics(*case.all), pairwise(case, "cosine"), case, 50)


def test_curve_keeps_its_last_value_beyond_a_short_gallery() -> None:
    case = random_case(0, queries=5, gallery=8, people=3)
    result = retrieval_metrics(*case.all, max_rank=50)
    assert len(result.cmc) == 50
    assert (result.cmc[8:] == 1).all()
    assert (result.cmc.diff() >= 0).all()


def test_queries_matched_by_their_own_camera_alone_are_skipped() -> None:
    case = random_case(1, people=5)
    case.query_pids[[2, 7]] = 100
    case.query_camids[[2, 7]] = 1
    case.gallery_pids[:3] = 100
    case.gallery_camids[:3] = 1
    result = retrieval_metrics(*case.all)
    assert not {2, 7} & set(result.valid.tolist())
    assert_matches_reference(result, pairwise(case, "cosine"), case, 50)


def test_no_person_or_camera_id_is_special() -> None:
    case = random_case(2, people=4)
    result = retrieval_metrics(*case.all)
    renamed = dataclasses.replace(
        case,
        query_pids=torch.tensor([-1, 0, 7, 2**40])[case.query_pids],
        gallery_pids=torch.tensor([-1, 0, 7, 2**40])[case.gallery_pids],
        query_camids=torch.tensor([-1, 0, 9])[case.query_camids],
        gallery_camids=torch.tensor([-1, 0, 9])[case.gallery_camids],
    )
    assert_same(retrieval_metrics(*renamed.all), result)


def test_one_query_and_one_entry() -> None:
    ids = (torch.tensor([4]), torch.tensor([4]), torch.tensor([0]), torch.tensor([1]))
    result = retrieval_metrics(torch.ones(1, 2), -torch.ones(1, 2), *ids, max_rank=3)
    assert result.cmc.tolist() == [1, 1, 1]
    assert (result.mAP, result.mINP, result.valid.tolist()) == (1, 1, [0])
    assert result.ap.shape == result.inp.shape == (1,)


def test_all_distances_equal() -> None:
    case = random_case(4)
    result = retrieval_metrics_from_distances(torch.zeros(30, 130), *case.ids)
    assert_matches_reference(result, np.zeros((30, 130)), case, 50)


def test_zero_features_are_as_far_as_orthogonal_ones() -> None:
    gallery = torch.tensor([[-1.0, 0], [0, 0], [0, 1], [1, 0]])
    ids = (torch.tensor([1]), torch.tensor([0, 0, 1, 0]), torch.tensor([0]), torch.tensor([1, 1, 1, 1]))
    assert retrieval_metrics(torch.tensor([[1.0, 0]]), gallery, *ids).mAP == pytest.approx(1 / 3)


def test_order_of_the_gallery_does_not_matter_without_ties() -> None:
    case = random_case(6)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(
        case,
        gallery_features=case.gallery_features[order],
        gallery_pids=case.gallery_pids[order],
        gallery_camids=case.gallery_camids[order],
    )
    assert_same(retrieval_metrics(*shuffled.all), retrieval_metrics(*case.all))


def test_far_distractors_change_nothing() -> None:
    case = random_case(7)
    distances = torch.from_numpy(pairwise(case, "euclidean"))
    result = retrieval_metrics_from_distances(distances, *case.ids)
    farther = torch.cat([distances, distances.max() + torch.rand(30, 200)], dim=1)
    pids = torch.cat([case.gallery_pids, torch.full((200,), -5)])
    cameras = torch.cat([case.gallery_camids, torch.zeros(200, dtype=torch.int64)])
    assert_same(retrieval_metrics_from_distances(farther, case.query_pids, pids, case.query_camids, cameras), result)


def test_cosine_ignores_the_length_of_features() -> None:
    case = exact_case(8)
    stretched = dataclasses.replace(
        case,
        query_features=case.query_features * torch.logspace(-8, 8, 40, base=2).round()[:, None].clamp(min=0.5),
        gallery_features=case.gallery_features * 2.0 ** torch.randint(-8, 8, (150, 1)),
    )
    assert_same(retrieval_metrics(*stretched.all), retrieval_metrics(*case.all))


def with_duplicates(case: Case) -> Case:
    """Copy an image to the places where a product changes its kernels."""
    places = torch.tensor([63, 64, 99, 200, 383, 384, 399, 400])
    case.gallery_features[places[places < len(case.gallery_features)]] = case.gallery_features[0].clone()
    return case


studied_blas = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="sums of other BLAS were not studied")


@pytest.mark.parametrize(
    "case",
    [
        exact_case(0, queries=200, gallery=401),
        pytest.param(
            with_duplicates(random_case(0, queries=200, gallery=401, people=40, dimension=513)), marks=studied_blas
        ),
        pytest.param(with_duplicates(random_case(1, queries=512, gallery=100, dimension=64)), marks=studied_blas),
    ],
)
@pytest.mark.usefixtures("restore_threads")
def test_result_depends_neither_on_threads_nor_on_the_tile(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    result = retrieval_metrics(*case.all)
    for threads in (1, 3, 4, 8):
        for tile_bytes in (1, 300_000, 1 << 30):
            torch.set_num_threads(threads)
            monkeypatch.setattr(retrieval, "_TILE_BYTES", tile_bytes)
            assert_same(retrieval_metrics(*case.all), result)


@studied_blas
@pytest.mark.parametrize("gallery", [2, 5, 17, 65, 100, 130])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.usefixtures("restore_threads")
def test_duplicates_tie_wherever_they_stand(gallery: int, distance: str) -> None:
    torch.set_num_threads(4)
    case = random_case(9, queries=80, gallery=gallery, people=3, dimension=300)
    case.gallery_features[1:] = case.gallery_features[0].clone()
    result = retrieval_metrics(*case.all, distance=distance)
    assert_matches_reference(result, np.zeros((80, gallery)), case, 50)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_products_stay_exact_when_training_chose_less(precision: str) -> None:
    case = random_case(10, queries=100, gallery=400, dimension=256)
    result = retrieval_metrics(*case.all)
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(retrieval_metrics(*case.all), result)
            with exact_products():
                assert (
                    torch.backends.mkldnn.matmul.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
                )
                assert not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(chosen)


def test_products_stay_exact_before_torch_29(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one setting for all devices, and none for each."""
    asked = ["medium"]
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with exact_products():
        assert asked == ["medium", "highest"]
        assert not torch.is_grad_enabled()
    assert asked == ["medium", "highest", "medium"]


def test_ids_take_memory_by_the_image_where_each_has_a_camera_of_its_own() -> None:
    count = 2000
    ids = np.arange(count)
    tracemalloc.start()
    pairs = IdentityPairs(ids // 2, ids // 2, ids, ids[::-1].copy())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 8 * count, "a count for every person and camera would be half of count² numbers"
    assert pairs.matches.tolist() == [2] * count
    one_camera = IdentityPairs(ids // 2, ids // 2, ids, ids)
    assert one_camera.matches.tolist() == [1] * count, "the other image; the query itself is junk"


def test_inputs_are_left_as_they_are() -> None:
    case = random_case(11)
    distances = torch.from_numpy(pairwise(case, "cosine")).float()
    before = [values.clone() for values in (*case.all, distances)]
    retrieval_metrics(*case.all)
    retrieval_metrics_from_distances(distances, *case.ids)
    assert all(torch.equal(old, new) for old, new in zip(before, (*case.all, distances), strict=True))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16])
def test_ids_of_any_integer_type(dtype: torch.dtype) -> None:
    case = random_case(12)
    ids = [values.to(dtype) for values in case.ids]
    assert_same(retrieval_metrics(*case.features, *ids), retrieval_metrics(*case.all))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_floating_type_are_compared_in_float32(dtype: torch.dtype) -> None:
    case = random_case(13)
    features = [values.to(dtype).requires_grad_() for values in case.features]
    in_float32 = [values.detach().float() for values in features]
    result = retrieval_metrics(*features, *case.ids)
    assert_same(result, retrieval_metrics(*in_float32, *case.ids))
    assert not result.ap.requires_grad


def test_features_need_not_be_contiguous() -> None:
    case = random_case(14)
    features = [values.T.contiguous().T for values in case.features]
    assert_same(retrieval_metrics(*features, *case.ids), retrieval_metrics(*case.all))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or not asked for: -m gpu")
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_cuda_gives_the_result_of_the_cpu(distance: str) -> None:
    case = exact_case(15, queries=200, gallery=401)
    on_cuda = [values.cuda() for values in case.all]
    result = retrieval_metrics(*on_cuda, distance=distance)
    assert_same(result, retrieval_metrics(*case.all, distance=distance))


def test_rank_reads_the_curve() -> None:
    result = retrieval_metrics(*random_case(16).all, max_rank=10)
    assert result.rank(1) == result.cmc[0]
    assert result.rank(10) == result.cmc[9]
    for k in (0, 11):
        with pytest.raises(UserError, match=f"Rank-{k} is not part"):
            result.rank(k)


def broken(**changes: object) -> tuple[object, ...]:
    return dataclasses.replace(random_case(17), **changes).all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (broken(query_features=torch.empty(0, 24), query_pids=torch.empty(0).long()), "query_features is empty"),
        (broken(gallery_features=torch.empty(0, 24)), "gallery_features is empty"),
        (broken(gallery_features=torch.zeros(130, 23)), "share their dimension"),
        (broken(gallery_features=torch.zeros(130)), "must be a matrix of floats"),
        (broken(gallery_features=torch.zeros(130, 24).long()), "must be a matrix of floats"),
        (broken(query_features=torch.full((30, 24), torch.nan)), "query_features holds values .* 30 of 30 rows"),
        (broken(gallery_features=torch.eye(130, 24).div(0)), "gallery_features holds values that are not finite"),
        (broken(query_features=torch.full((30, 24), 1e30)), "exceed 1e18"),
        (broken(query_pids=torch.zeros(29).long()), "query_pids must hold one id per image"),
        (broken(gallery_pids=torch.zeros(131).long()), "gallery_pids must hold one id per image"),
        (broken(query_camids=torch.zeros(30)), "query_camids must be integers"),
        (broken(gallery_pids=torch.zeros(130) > 0), "gallery_pids must be integers"),
        (broken(gallery_camids=torch.zeros(130, 1).long()), "gallery_camids must hold one id per image"),
        (broken(query_pids=torch.full((30,), 99)), "None of the 30 queries has a match"),
        (broken(query_camids=torch.zeros(30).long(), gallery_camids=torch.zeros(130).long()), "has a match"),
    ],
)
def test_unusable_input_is_refused_in_words(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        retrieval_metrics(*arguments)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_distance_that_is_not_finite_is_refused(value: float) -> None:
    case = random_case(18)
    distances = torch.rand(30, 130)
    distances[29, 129] = value
    with pytest.raises(UserError, match="distances holds values that are not finite"):
        retrieval_metrics_from_distances(distances, *case.ids)


def test_unusable_options_are_refused() -> None:
    case = random_case(19)
    with pytest.raises(UserError, match="There is no distance 'manhattan'"):
        retrieval_metrics(*case.all, distance="manhattan")
    with pytest.raises(UserError, match="max_rank must be at least 1"):
        retrieval_metrics(*case.all, max_rank=0)
    with pytest.raises(UserError, match="must be a matrix"):
        retrieval_metrics_from_distances(torch.zeros(30), *case.ids)
    with pytest.raises(UserError, match="distances is empty"):
        retrieval_metrics_from_distances(torch.zeros(0, 130), *case.ids)
    with pytest.raises(UserError, match="query_pids must hold one id per image"):
        retrieval_metrics_from_distances(torch.zeros(31, 130), *case.ids)
