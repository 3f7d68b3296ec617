from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.metrics.functional import knn, near_pairs, reciprocal_encoding, shared_minima
from diffreid_lightning.metrics.functional.jaccard import camera_jaccard_distances, jaccard_distances
from diffreid_lightning.metrics.functional.shared_minima import SharedMinima
from tests.fixtures.retrieval_cases import exact_case, random_case

EPS = 0.98


def unlabeled(seed: int, images: int = 150, exact: bool = False) -> tuple[Tensor, np.ndarray]:
    """Features and cameras; the exact ones have tied distances nearly everywhere."""
    case = exact_case(seed, 20, images - 20) if exact else random_case(seed, 20, images - 20)
    camids = 3 * torch.cat([case.query_camids, case.gallery_camids]).numpy() - 1
    return torch.cat(case.features), camids


# A slow reference that shares nothing with the code under test: sets, loops and dense matrices.


def squared_distances(features: Tensor) -> np.ndarray:
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    return (2 - 2 * unit @ unit.T).numpy().round(12)


def ranking(distances: np.ndarray, image: int, others: list[int]) -> list[int]:
    return sorted(others, key=lambda other: (other != image, distances[image, other], other))


def dense_jaccard(distances: np.ndarray, sets: list[set[int]], averaged: list[list[int]]) -> np.ndarray:
    images = len(distances)
    encodings = np.zeros((images, images))
    for image, members in enumerate(sets):
        for member in members:
            encodings[image, member] = np.exp(-distances[image, member])
        encodings[image] /= encodings[image].sum()
    encodings = np.stack([encodings[neighbors].mean(axis=0) for neighbors in averaged])
    least = np.stack([np.minimum(row, encodings).sum(axis=1) for row in encodings])
    most = np.stack([np.maximum(row, encodings).sum(axis=1) for row in encodings])
    return 1 - least / most


def reference(features: Tensor, k1: int, k2: int) -> np.ndarray:
    distances = squared_distances(features)
    images = range(len(features))
    order = [ranking(distances, image, list(images)) for image in images]

    def reciprocal(image: int, k: int) -> set[int]:
        return {other for other in order[image][:k] if image in order[other][:k]}

    half = min(int(np.around(k1 / 2)) + 1, k1)
    sets = []
    for image in images:
        members = reciprocal(image, k1)
        widened = set(members)
        for member in members:
            narrow = reciprocal(member, half)
            if len(narrow & members) > 2 / 3 * len(narrow):
                widened |= narrow
        sets.append(widened)
    return dense_jaccard(distances, sets, [neighbors[:k2] for neighbors in order])


def camera_reference(
    features: Tensor, camids: np.ndarray, k1_within: int, k1_across: int, k2_within: int, k2_across: int
) -> np.ndarray:
    distances = squared_distances(features)
    by_camera = np.argsort(camids, kind="stable").tolist()
    within = [ranking(distances, i, [j for j in by_camera if camids[i] == camids[j]]) for i in range(len(camids))]
    across = [
        sorted((j for j in by_camera if camids[i] != camids[j]), key=lambda j, i=i: distances[i, j])
        for i in range(len(camids))
    ]
    sets, averaged = [], []
    for image in range(len(camids)):
        sets.append(
            {j for j in within[image][: k1_within + 1] if image in within[j][: k1_within + 1]}
            | {j for j in across[image][: k1_across + 1] if image in across[j][: k1_across + 1]}
        )
        averaged.append(within[image][:k2_within] + across[image][:k2_across])
    return dense_jaccard(distances, sets, averaged)


def assert_sparse_equals(found: sparse.csr_array, expected: np.ndarray, eps: float) -> None:
    """All pairs within eps are stored and no others, but for those that rounding decides."""
    assert found.dtype == np.float32 and found.has_sorted_indices
    stored = np.zeros(found.shape, dtype=bool)
    row = np.repeat(np.arange(len(expected)), np.diff(found.indptr))
    stored[row, found.indices] = True
    np.testing.assert_allclose(found.data, expected[row, found.indices], atol=2e-6)
    assert stored[expected < eps - 2e-6].all()
    assert not stored[expected > eps + 2e-6].any()
    assert stored.diagonal().all() and not found.diagonal().any()
    assert (found != found.T).nnz == 0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 1), (5, 3), (7, 6), (10, 2), (14, 20), (30, 6)])
def test_matches_the_dense_reference(k1: int, k2: int, exact: bool) -> None:
    features, _ = unlabeled(k1, exact=exact)
    expected = reference(features, k1, k2)
    for eps in (0.3, 0.6, EPS):
        assert_sparse_equals(jaccard_distances(features, eps, k1=k1, k2=k2), expected, eps)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 6, 2, 3), (5, 20, 2, 4), (80, 5, 1, 30)])
def test_camera_aware_distances_match_the_dense_reference(sizes: tuple[int, int, int, int], exact: bool) -> None:
    features, camids = unlabeled(sum(sizes), exact=exact)
    camids[40:43] = 100  # a camera with fewer images than neighbors
    expected = camera_reference(features, camids, *sizes)
    names = ("k1_within", "k1_across", "k2_within", "k2_across")
    for eps in (0.5, EPS):
        options = dict(zip(names, sizes, strict=True))
        assert_sparse_equals(camera_jaccard_distances(features, camids, eps, **options), expected, eps)


def test_the_defaults_are_the_fields() -> None:
    features, camids = unlabeled(3)
    assert_sparse_equals(jaccard_distances(features, EPS), reference(features, 30, 6), EPS)
    assert_sparse_equals(
        camera_jaccard_distances(features, camids, EPS), camera_reference(features, camids, 5, 20, 2, 4), EPS
    )


def test_two_cameras_with_few_common_images() -> None:
    features, _ = unlabeled(4)
    camids = np.zeros(len(features), dtype=np.int64)
    camids[7] = 5
    expected = camera_reference(features, camids, 5, 20, 2, 4)
    assert_sparse_equals(camera_jaccard_distances(features, camids, EPS), expected, EPS)


def test_fewer_images_than_neighbors() -> None:
    for images in (1, 2, 5, 29):
        features = torch.randn(images, 6, generator=torch.Generator().manual_seed(images))
        assert_sparse_equals(jaccard_distances(features, EPS), reference(features, images, min(6, images)), EPS)


def test_copies_of_an_image() -> None:
    features, camids = unlabeled(5)
    features[60:72] = features[3]
    for k1, k2 in ((10, 3), (4, 6)):
        expected = reference(features, k1, k2)
        assert_sparse_equals(jaccard_distances(features, EPS, k1=k1, k2=k2), expected, EPS)
    assert np.isfinite(camera_jaccard_distances(features, camids, EPS).data).all()


def test_images_that_are_all_alike_stay_finite() -> None:
    camids = np.arange(70) % 2
    for features in (torch.ones(70, 3), torch.zeros(70, 3)):
        for found in (jaccard_distances(features, EPS), camera_jaccard_distances(features, camids, EPS)):
            assert np.isfinite(found.data).all() and not found.diagonal().any()
            assert (found.data <= np.float32(EPS)).all()


def test_length_and_type_of_features_do_not_matter() -> None:
    features, camids = unlabeled(6, exact=True)
    lengths = 2.0 ** torch.arange(len(features)).remainder(9)[:, None]
    for other in (features * lengths, features.double(), features.half()):
        assert (jaccard_distances(other, EPS) != jaccard_distances(features, EPS)).nnz == 0
        one, two = (camera_jaccard_distances(some, camids, EPS) for some in (other, features))
        assert (one != two).nnz == 0


def test_the_order_of_the_images_does_not_matter() -> None:
    features, camids = unlabeled(7)
    order = np.random.default_rng(0).permutation(len(features))
    for found, again in (
        (jaccard_distances(features, EPS), jaccard_distances(features[order], EPS)),
        (
            camera_jaccard_distances(features, camids, EPS),
            camera_jaccard_distances(features[order], camids[order], EPS),
        ),
    ):
        np.testing.assert_allclose(again.toarray(), found.toarray()[order][:, order], atol=1e-6)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="other BLAS were not studied")
@pytest.mark.usefixtures("restore_threads")
def test_result_depends_neither_on_threads_nor_on_block_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    features, camids = unlabeled(8, images=430)
    expected = jaccard_distances(features, EPS, k1=9), camera_jaccard_distances(features, camids, EPS)
    for threads, panel, rows, columns, cached, pairs in (
        (1, 64, 1, 33, 64, 1),
        (3, 128, 40, 7, 192, 70_000),
        (2, 1024, 64, 4096, 8192, 1 << 30),
    ):
        torch.set_num_threads(threads)
        monkeypatch.setattr(knn, "_MOST_PANEL_ROWS", panel)
        monkeypatch.setattr(knn, "_ROWS_AT_ONCE", rows)
        monkeypatch.setattr(knn, "_COLUMNS_AT_ONCE", columns)
        monkeypatch.setattr(knn, "_COLUMNS_IN_CACHE", cached)
        monkeypatch.setattr(shared_minima, "_PAIRS_AT_ONCE", pairs)
        monkeypatch.setattr(reciprocal_encoding, "_COMPARED_AT_ONCE", pairs)
        found = jaccard_distances(features, EPS, k1=9), camera_jaccard_distances(features, camids, EPS)
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.indptr, other.indptr) and np.array_equal(one.indices, other.indices)
            assert np.array_equal(one.data, other.data)


def test_nothing_as_large_as_the_dense_matrix_is_made() -> None:
    images = 4000
    random = torch.Generator().manual_seed(0)
    features = torch.randn(images // 10, 16, generator=random).repeat(10, 1)
    features += 0.3 * torch.randn(features.shape, generator=random)
    camids = np.arange(images) % 4
    tracemalloc.start()
    plain, aware = jaccard_distances(features, 0.6, k1=10), camera_jaccard_distances(features, camids, 0.6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * images**2
    assert 5 * images < plain.nnz < 40 * images and 5 * images < aware.nnz < 40 * images


def test_inputs_are_left_as_they_are() -> None:
    features, camids = unlabeled(9)
    before = features.clone(), camids.copy()
    jaccard_distances(features, EPS)
    camera_jaccard_distances(features, camids, EPS)
    assert torch.equal(features, before[0]) and np.array_equal(camids, before[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or not asked for: -m gpu")
def test_cuda_gives_the_result_of_the_cpu() -> None:
    features, camids = unlabeled(10, images=430, exact=True)
    assert (jaccard_distances(features.cuda(), EPS) != jaccard_distances(features, EPS)).nnz == 0
    on_cuda = camera_jaccard_distances(features.cuda(), camids, EPS)
    assert (on_cuda != camera_jaccard_distances(features, camids, EPS)).nnz == 0


@pytest.mark.parametrize(
    "options", [{"k1": 0}, {"k2": 0}, {"k1": 1001}, {"eps": 0.0}, {"eps": 1.0}, {"eps": float("nan")}]
)
def test_parameters_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} must be"):
        jaccard_distances(unlabeled(0)[0], **{"eps": 0.5, **options})


def test_unusable_features_and_cameras_are_refused() -> None:
    features, camids = unlabeled(11)
    for useless, seen in ((np.zeros_like(camids), "all of camera 0"), (np.arange(len(camids)), "a camera of its own")):
        with pytest.raises(UserError, match=f"(?s)at least two cameras.*{seen}"):
            camera_jaccard_distances(features, useless, 0.5)
    with pytest.raises(UserError, match="one number per image"):
        camera_jaccard_distances(features, camids[1:], 0.5)
    features[5, 1] = torch.nan
    for compute in (jaccard_distances, lambda some, eps: camera_jaccard_distances(some, camids, eps)):
        with pytest.raises(UserError, match=r"features holds .* the first is row 5"):
            compute(features, 0.5)
    with pytest.raises(UserError, match="features is empty"):
        jaccard_distances(torch.empty(0, 4), 0.5)


def test_more_pairs_than_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_pairs, "_MOST_PAIRS", 100)
    with pytest.raises(RunError, match="More than 100 pairs of the 150 images"):
        jaccard_distances(unlabeled(12)[0], EPS)


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_are_sums_of_minima(seed: int) -> None:
    random = np.random.default_rng(seed)
    dense = [random.random((rows, 37)).astype(np.float32) * (random.random((rows, 37)) < 0.2) for rows in (41, 29)]
    left, right = (sparse.csr_array(matrix) for matrix in dense)
    expected = np.minimum(dense[0][:, None], dense[1][None]).sum(axis=2, dtype=np.float64)
    np.testing.assert_allclose(SharedMinima(left, right).sums(5, 30), expected[5:30], rtol=1e-6)
    among = SharedMinima(left)
    expected = np.triu(np.minimum(dense[0][:, None], dense[0][None]).sum(axis=2, dtype=np.float64), 1)
    for start, stop in among.runs(1):
        np.testing.assert_allclose(among.sums(start, stop, start + 1), expected[start:stop, start + 1 :], rtol=1e-6)
