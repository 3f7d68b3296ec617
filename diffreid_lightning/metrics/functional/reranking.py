"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017).

The steps and their edge cases are those of the authors' implementation, which the field's numbers come from: distances
are squared and divided by each image's largest one, half of k1 is rounded to even, and a candidate's set is merged when
more than two thirds of it are shared. No N × N matrix is made: sets and encodings are sparse.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional.checks import check_features
from diffreid_lightning.metrics.functional.knn import Neighborhoods, PooledFeatures, nearest_neighbors

_IMAGES_AT_ONCE = 2048
_PAIRS_AT_ONCE = 1 << 20


def k_reciprocal_rerank(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Tensor:
    """Re-rank by k-reciprocal encoding on squared cosine distances.

    Features may lie on any device; beside the (Q, G) result and what little the sets take, memory stays under
    0.6 GiB at the size of MSMT17.

    Args:
        query_features: (Q, D), any floating dtype; need not be normalized.
        gallery_features: (G, D), on the same device.
        k1: size of the neighborhood whose reciprocal members encode an image (eq. 4), at least 1.
        k2: neighbors over which encodings are averaged (eq. 11), at least 1; 1 switches the averaging off.
        lambda_value: weight of the original distance, 0 .. 1 (eq. 12).

    Returns:
        (Q, G) float32 on the features' device, in [0, 1]; smaller = nearer.

    Raises:
        UserError: empty or ill-fitting features, features that are not finite, or a parameter outside its range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise UserError(
            "Re-ranking needs k1 >= 1, k2 >= 1 and lambda_value in [0, 1].",
            found=f"k1={k1}, k2={k2}, lambda_value={lambda_value}",
        )
    query_features, gallery_features = check_features(query_features, gallery_features)
    pool = PooledFeatures(query_features, gallery_features)
    queries, images = len(query_features), len(query_features) + len(gallery_features)

    # 1. Neighbors, each image the first among its own. 2. Reciprocal sets. 3. Encodings. 4. Local query expansion.
    result = np.empty((queries, len(gallery_features)), dtype=np.float32)
    neighborhoods = nearest_neighbors(pool, min(max(k1 + 1, k2), images), result)
    sets = expanded_reciprocal_sets(neighborhoods.indices[:, : k1 + 1], round(k1 / 2) + 1)
    encodings = _encode(sets, pool, neighborhoods)
    if k2 > 1:
        encodings = _average(encodings, neighborhoods.indices[:, :k2])

    # 5. The final distance: Jaccard distance of the encodings, mixed with the original distance.
    _mix(result, neighborhoods.farthest[:queries], encodings, lambda_value)
    return torch.from_numpy(result).to(query_features.device)


def reciprocal_members(neighbors: np.ndarray) -> np.ndarray:
    """Find the reciprocal neighbors of each image (eq. 3).

    Args:
        neighbors: (N, k) int64 indices, without repeats in a row.

    Returns:
        (N, k) bool.
    """
    reciprocal = np.empty(neighbors.shape, dtype=np.bool_)
    for start in range(0, len(neighbors), _IMAGES_AT_ONCE):
        some = neighbors[start : start + _IMAGES_AT_ONCE]
        images = np.arange(start, start + len(some))
        reciprocal[start : start + len(some)] = (neighbors[some] == images[:, None, None]).any(axis=-1)
    return reciprocal


def expanded_reciprocal_sets(neighbors: np.ndarray, half: int) -> sparse.csr_array:
    """The reciprocal set of each image, widened by those of its members that mostly agree with it (eq. 5).

    Args:
        neighbors: (N, k1 + 1) int64 indices, nearest first.
        half: how many of them count for a member's own, narrower set.

    Returns:
        (N, N) int32 matrix; row i is non-zero at the members of i's set, sorted.
    """
    sets = _as_rows(neighbors, reciprocal_members(neighbors))
    narrow = neighbors[:, :half]
    narrow_sets = _as_rows(narrow, reciprocal_members(narrow))
    shared = (sets @ narrow_sets.T).multiply(sets).tocsr()
    sizes = np.diff(narrow_sets.indptr)
    shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    expanded = sets + shared @ narrow_sets
    expanded.sort_indices()
    return expanded


def _as_rows(neighbors: np.ndarray, chosen: np.ndarray) -> sparse.csr_array:
    """A 0/1 matrix (N, N) whose row i marks the chosen neighbors of i."""
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    members = neighbors[chosen]
    return sparse.csr_array(
        (np.ones(len(members), dtype=np.int32), members, indptr), shape=(len(neighbors), len(neighbors))
    )


def _encode(sets: sparse.csr_array, pool: PooledFeatures, neighborhoods: Neighborhoods) -> sparse.csr_array:
    """Weigh each member of a set by exp(-distance) and let a row sum to 1 (eq. 7), (N, N) float32."""
    images = len(neighborhoods.indices)
    owner = np.repeat(np.arange(images), np.diff(sets.indptr))
    distances = _member_distances(owner, sets.indices.astype(np.int64), pool, neighborhoods)
    weights = np.exp(-np.square(distances) / _positive(neighborhoods.farthest**2)[owner])
    totals = np.bincount(owner, weights, minlength=images).astype(np.float32)
    return sparse.csr_array((weights / totals[owner], sets.indices, sets.indptr), shape=sets.shape)


def _member_distances(
    owner: np.ndarray, member: np.ndarray, pool: PooledFeatures, neighborhoods: Neighborhoods
) -> np.ndarray:
    """Distances of pairs: those of neighbors are known, the others (members of members) are computed."""
    images = len(neighborhoods.indices)
    order = np.argsort(neighborhoods.indices, axis=1)
    known = np.take_along_axis(neighborhoods.indices, order, axis=1) + np.arange(images)[:, None] * images
    values = np.take_along_axis(neighborhoods.distances, order, axis=1).ravel()
    wanted = owner * images + member
    place = np.minimum(np.searchsorted(known.ravel(), wanted), known.size - 1)
    distances = values[place]
    missing = np.flatnonzero(known.ravel()[place] != wanted)
    distances[missing] = pool.cosine_distances(owner[missing], member[missing])
    return distances


def _average(encodings: sparse.csr_array, neighbors: np.ndarray) -> sparse.csr_array:
    """Average the encodings of each image's nearest neighbors (eq. 11)."""
    images, k = neighbors.shape
    weights = sparse.csr_array(
        (np.full(images * k, 1 / k, dtype=np.float32), neighbors.ravel(), np.arange(0, images * k + 1, k)),
        shape=(images, images),
    )
    return weights @ encodings


def _mix(distances: np.ndarray, farthest: np.ndarray, encodings: sparse.csr_array, lambda_value: float) -> None:
    """Turn cosine distances into the final ones: ``lambda`` × original + (1 - ``lambda``) × Jaccard (eq. 10, 12).

    Only images that share a member have a smaller Jaccard distance than 1, so each query visits the gallery images
    listed under its members.

    Args:
        distances: (Q, G) float32, overwritten.
        farthest: (Q,) float32, the largest distance of each query.
        encodings: (Q + G, Q + G).
        lambda_value: weight of the original distance.
    """
    queries, gallery = distances.shape
    listed = encodings[queries:].tocsc()
    own = encodings[:queries]
    scale = lambda_value / _positive(farthest**2)
    lengths = np.diff(listed.indptr)[own.indices]

    def mix(start: int, stop: int) -> None:
        entries = slice(own.indptr[start], own.indptr[stop])
        length = lengths[entries]
        query = np.repeat(np.arange(stop - start), np.diff(own.indptr[start : stop + 1]))
        offset = listed.indptr[own.indices[entries]] - (np.cumsum(length) - length)
        place = np.arange(length.sum()) + np.repeat(offset, length)
        minima = np.minimum(np.repeat(own.data[entries], length), listed.data[place])
        target = np.repeat(query * gallery, length) + listed.indices[place]
        shared = np.bincount(target, minima, minlength=(stop - start) * gallery).reshape(stop - start, gallery)
        original = np.square(distances[start:stop]) * scale[start:stop, None]
        distances[start:stop] = original + (1 - lambda_value) * (1 - shared / (2 - shared))

    visits = np.concatenate([[0], np.cumsum(lengths)])[own.indptr]
    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        list(workers.map(lambda some: mix(*some), _runs_of_queries(visits, gallery, torch.get_num_threads())))


def _runs_of_queries(visits: np.ndarray, gallery: int, workers: int) -> Iterator[tuple[int, int]]:
    """Cut the queries into runs (start, stop) that visit few enough images for all workers' pieces together.

    Args:
        visits: (Q + 1,) running total of the gallery images that the queries visit.
        gallery: G.
        workers: how many runs are worked on at once.
    """
    pairs = max(_PAIRS_AT_ONCE // workers, 1 << 16)
    start, queries = 0, len(visits) - 1
    while start < queries:
        stop = int(np.searchsorted(visits, visits[start] + pairs, side="right")) - 1
        stop = max(min(stop, start + pairs // gallery, queries), start + 1)
        yield start, stop
        start = stop


def _positive(values: np.ndarray) -> np.ndarray:
    """The values, with 1 for those that are 0: what is divided by them is 0 as well."""
    return np.where(values > 0, values, np.float32(1))
