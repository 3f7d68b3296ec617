from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.unsupervised.clusterers import DBSCAN, KMeans
from diffreid_lightning.unsupervised.clusterers.base import number_by_first_image
from diffreid_lightning.unsupervised.distances import (
    CameraJaccardDistance,
    CosineDistance,
    Distance,
    JaccardDistance,
)

EPS = 0.6  # which is less than the float32 nearest to it


def people(seed: int, count: int = 12, images: int = 15, spread: float = 0.7) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Features of some people in random order, camera numbers, and who they are."""
    random = torch.Generator().manual_seed(seed)
    pids = torch.arange(count).repeat(images)[torch.randperm(count * images, generator=random)]
    centers = torch.randn(count, 32, generator=random)
    features = centers[pids] + spread * torch.randn(len(pids), 32, generator=random)
    return features, torch.randint(4, pids.shape, generator=random).numpy(), pids.numpy()


class StoredPairs(Distance):
    """The distances of a given matrix."""

    def __init__(self, graph: sparse.csr_array) -> None:
        self.graph = graph

    def pairs_within(self, features: Tensor, camids: np.ndarray, eps: float) -> sparse.csr_array:
        return self.graph


def labels_of(graph: sparse.csr_array, min_samples: int) -> np.ndarray:
    return DBSCAN(StoredPairs(graph), EPS, min_samples)(torch.empty(0), np.empty(0, np.int64))


def reference_labels(near: np.ndarray, min_samples: int) -> np.ndarray:
    """DBSCAN by its definition: cores that reach each other, and images near a core, from who is near whom."""
    cores = near.sum(axis=1) >= min_samples
    reached = near & cores & cores[:, None]
    for _ in range(len(near).bit_length()):
        reached = reached @ reached
    first = reached.argmax(axis=1)  # of a core: the first one of its cluster
    return number_by_first_image(np.array([min(first[row & cores], default=-1) for row in near]))


def random_graph(seed: int) -> sparse.csr_array:
    """A symmetric matrix of distances up to the limit, with stored zeros and a stored diagonal."""
    random = np.random.default_rng(seed)
    images = int(random.integers(1, 60))
    row, column = np.nonzero(np.triu(random.random((images, images)) < random.choice([0.01, 0.04, 0.1]), 1))
    values = random.choice(np.array([0, 0.2, 0.4, EPS], dtype=np.float32), len(row))
    diagonal = np.arange(images)
    data = np.concatenate([values, values, np.zeros(images, np.float32)])
    places = np.concatenate([row, column, diagonal]), np.concatenate([column, row, diagonal])
    return sparse.coo_array((data, places), shape=(images, images)).tocsr()


def densely(graph: sparse.csr_array, far: float) -> np.ndarray:
    dense = np.full(graph.shape, far, dtype=np.float32)
    dense[np.repeat(np.arange(len(dense)), np.diff(graph.indptr)), graph.indices] = graph.data
    return dense


def test_labels_of_random_graphs_are_those_of_the_definition() -> None:
    outliers, borders = 0, 0
    for seed in range(120):
        graph = random_graph(seed)
        before, near = graph.copy(), densely(graph, 9.0) < 9
        for min_samples in (1, 2, 3, 4, 6):
            found = labels_of(graph, min_samples)
            assert np.array_equal(found, reference_labels(near, min_samples))
            assert found.dtype == np.int64
            outliers += np.count_nonzero(found < 0)
            borders += np.count_nonzero((found >= 0) & (near.sum(axis=1) < min_samples))
        assert np.array_equal(graph.data, before.data) and np.array_equal(graph.indices, before.indices)
    assert outliers > 1000 and borders > 300


def test_a_border_image_belongs_to_the_cluster_with_the_first_core_point() -> None:
    # Image 3 is near the cores 2 and 5 of two groups; 0 is at the border of the second one.
    edges = [(1, 2), (2, 4), (2, 3), (3, 5), (5, 6), (5, 0), (2, 7), (5, 8)]
    dense = np.eye(9)
    for one, other in edges:
        dense[one, other] = dense[other, one] = 1
    labels = labels_of(sparse.csr_array(dense / 2), 5)
    assert labels.tolist() == [0, 1, 1, 1, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("distance", [JaccardDistance(k1=12), CameraJaccardDistance(3, 8), CosineDistance()])
@pytest.mark.parametrize("seed", range(3))
def test_dbscan_is_that_of_the_dense_matrix(seed: int, distance: Distance) -> None:
    features, camids, pids = people(seed)
    eps = 0.35 if isinstance(distance, CosineDistance) else 0.6
    labels = DBSCAN(distance, eps)(features, camids)
    largest = 1.99 if isinstance(distance, CosineDistance) else 0.999
    dense = densely(distance.pairs_within(features, camids, largest), 2.0)
    assert np.array_equal(labels, reference_labels(dense <= np.float32(eps), 4))
    assert 3 < labels.max() < 20
    assert np.mean([len(np.unique(pids[labels == label])) for label in range(labels.max() + 1)]) < 1.5


def test_cosine_pairs_are_those_of_the_dense_matrix() -> None:
    features, camids, _ = people(0)
    features[5] = 3 * features[9]
    features[7] = 0
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    expected = (1 - unit @ unit.T).numpy()
    np.fill_diagonal(expected, 0)
    for eps in (0.2, 0.7, 1.5):
        found = CosineDistance().pairs_within(features, camids, eps)
        dense = densely(found, 5.0)
        assert np.array_equal(dense <= 2, expected <= eps)
        np.testing.assert_allclose(dense[dense <= 2], expected[dense <= 2], atol=1e-6)
        assert found.has_sorted_indices and (dense == dense.T).all() and dense.min() == 0


def test_labels_are_numbered_by_the_first_image() -> None:
    assert number_by_first_image(np.array([7, -1, 2, 7, -3, 0, 2])).tolist() == [0, -1, 1, 0, -1, 2, 1]
    assert number_by_first_image(np.array([-1, -1])).tolist() == [-1, -1]
    for seed in range(3):
        features, camids, _ = people(seed)
        for clusterer in (DBSCAN(JaccardDistance(12)), KMeans(9)):
            labels = clusterer(features, camids)
            inside = labels[labels >= 0]
            assert (np.diff(np.unique(inside, return_index=True)[1]) > 0).all()
            assert np.array_equal(np.unique(inside), np.arange(inside.max() + 1))


def test_kmeans_finds_people_apart_whatever_the_length_of_their_features() -> None:
    features, camids, pids = people(1, spread=0.1)
    labels = KMeans(12)(features * torch.arange(1, len(features) + 1)[:, None], camids)
    assert np.array_equal(labels, number_by_first_image(pids))
    assert np.array_equal(labels, KMeans(12, seed=5)(features.double(), camids))


def test_kmeans_of_identical_images_leaves_fewer_clusters() -> None:
    with pytest.warns(UserWarning, match="distinct clusters"):
        assert KMeans(3)(torch.ones(5, 2), np.zeros(5, np.int64)).tolist() == [0] * 5


@pytest.mark.parametrize("clusterer", [DBSCAN(), DBSCAN(CameraJaccardDistance()), KMeans(40)])
@pytest.mark.usefixtures("restore_threads")
def test_labels_depend_on_the_images_alone(clusterer: DBSCAN | KMeans) -> None:
    features, camids, _ = people(2, count=40, spread=1.0)
    before = features.clone()
    labels = clusterer(features, camids)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        np.random.seed(threads)
        assert np.array_equal(clusterer(features, camids), labels)
    assert torch.equal(features, before)
    assert np.array_equal(clusterer(features, camids + 7), labels)
    assert clusterer.uses_cameras == (not np.array_equal(clusterer(features, camids % 2), labels))


def test_too_few_images_make_no_cluster() -> None:
    assert DBSCAN()(torch.eye(3), np.arange(3)).tolist() == [-1] * 3
    assert DBSCAN(min_samples=1)(torch.eye(1), np.arange(1)).tolist() == [0]
    with pytest.raises(UserError, match="3 images cannot make 4 clusters"):
        KMeans(4)(torch.eye(3), np.arange(3))


def test_images_that_are_all_alike_are_one_cluster_and_outliers() -> None:
    labels = DBSCAN()(torch.ones(50, 4), np.zeros(50, np.int64))
    assert set(labels.tolist()) <= {0, -1}


@pytest.mark.parametrize("clusterer", [DBSCAN(), DBSCAN(CameraJaccardDistance()), DBSCAN(CosineDistance()), KMeans(2)])
def test_features_that_are_not_finite_are_refused(clusterer: DBSCAN | KMeans) -> None:
    features, camids, _ = people(3)
    features[4, 0] = torch.inf
    with pytest.raises(UserError, match="the first is row 4"):
        clusterer(features, camids)


def test_limits_belong_to_the_distance() -> None:
    with pytest.raises(UserError, match="eps must be greater than 0 and less than 1"):
        DBSCAN(eps=1.0)
    with pytest.raises(UserError, match="eps must be greater than 0 and less than 1"):
        CameraJaccardDistance().pairs_within(*people(0)[:2], eps=1.2)
    with pytest.raises(UserError, match="eps must be greater than 0 and less than 2"):
        DBSCAN(CosineDistance(), eps=2.0)
    assert DBSCAN(CosineDistance(), eps=1.2).eps == 1.2
