"""Build sparse k-reciprocal encodings for re-ranking and Jaccard distances.

The reciprocal sets of Zhong et al. ("Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017), with
the paper's equation numbers, as (N, N) sparse matrices with one row per image.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from diffreid_lightning.metrics.functional.knn import Neighborhoods, PooledFeatures

_COMPARED_AT_ONCE = 1 << 21


def reciprocal_members(neighbors: np.ndarray) -> np.ndarray:
    """Find the reciprocal neighbors of each image (eq. 3).

    Args:
        neighbors: (N, k) int64 indices, without repeats in a row; -1 for none.

    Returns:
        (N, k) bool.
    """
    reciprocal = np.empty(neighbors.shape, dtype=np.bool_)
    step = max(_COMPARED_AT_ONCE // neighbors.shape[1] ** 2, 1)
    for start in range(0, len(neighbors), step):
        some = neighbors[start : start + step]
        images = np.arange(start, start + len(some))
        mutual = (neighbors[some] == images[:, None, None]).any(axis=-1)
        reciprocal[start : start + len(some)] = mutual & (some >= 0)
    return reciprocal


def expand_reciprocal_sets(neighbors: np.ndarray, half: int) -> sparse.csr_array:
    """Return the reciprocal set of each image, expanded by the sets of members that mostly overlap with it (eq. 5).

    Args:
        neighbors: (N, k) int64 indices, nearest first, including the image itself.
        half: number of neighbors in the members' narrower sets.

    Returns:
        (N, N) int32 matrix; row i is non-zero at the members of i's set, sorted.
    """
    sets = rows_of_members(neighbors, reciprocal_members(neighbors))
    narrow = neighbors[:, :half]
    narrow_sets = rows_of_members(narrow, reciprocal_members(narrow))
    shared = (sets @ narrow_sets.T).multiply(sets).tocsr()
    sizes = np.diff(narrow_sets.indptr)
    shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    expanded = sets + shared @ narrow_sets
    expanded.sort_indices()
    return expanded


def rows_of_members(neighbors: np.ndarray, chosen: np.ndarray) -> sparse.csr_array:
    """Return a 0/1 matrix (N, N) whose row i marks the chosen neighbors of i, in the neighbors' order."""
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    members = neighbors[chosen]
    return sparse.csr_array(
        (np.ones(len(members), dtype=np.int32), members, indptr), shape=(len(neighbors), len(neighbors))
    )


def member_distances(
    sets: sparse.csr_array, pool: PooledFeatures, neighborhoods: Neighborhoods
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine distances between each image and the members of its set.

    Distances to neighbors are known; the others (members of members) are computed.

    Args:
        sets: (N, N), row i non-zero at the members of i's set.
        pool: the N images.
        neighborhoods: their neighbors, none missing.

    Returns:
        owner: (M,) int64, the image of each of the M members, ascending.
        distances: (M,) float32.
    """
    images = len(pool)
    owner = np.repeat(np.arange(images), np.diff(sets.indptr))
    member = sets.indices.astype(np.int64)
    order = np.argsort(neighborhoods.indices, axis=1)
    known = np.take_along_axis(neighborhoods.indices, order, axis=1) + np.arange(images)[:, None] * images
    values = np.take_along_axis(neighborhoods.distances, order, axis=1).ravel()
    wanted = owner * images + member
    place = np.minimum(np.searchsorted(known.ravel(), wanted), known.size - 1)
    distances = values[place]
    missing = np.flatnonzero(known.ravel()[place] != wanted)
    distances[missing] = pool.cosine_distances(owner[missing], member[missing])
    return owner, distances


def weigh_members(sets: sparse.csr_array, owner: np.ndarray, weights: np.ndarray) -> sparse.csr_array:
    """Return the encodings: the members' weights, scaled so that rows sum to 1 (eq. 7).

    Args:
        sets: (N, N), row i non-zero at the members of i's set.
        owner: (M,) int64, the image of each member.
        weights: (M,) float32, positive.

    Returns:
        (N, N) float32, with the indices of ``sets``.
    """
    totals = np.bincount(owner, weights, minlength=sets.shape[0]).astype(np.float32)
    return sparse.csr_array((weights / totals[owner], sets.indices, sets.indptr), shape=sets.shape)


def average_encodings(encodings: sparse.csr_array, neighbors: np.ndarray) -> sparse.csr_array:
    """Average the encodings of each image's nearest neighbors (eq. 11).

    Args:
        encodings: (N, N) float32.
        neighbors: (N, k) int64 indices, at least one in a row; -1 for none.

    Returns:
        (N, N) float32, sorted indices.
    """
    present = neighbors >= 0
    averaging = rows_of_members(neighbors, present)
    counts = present.sum(axis=1)
    averaging.data = np.repeat((1 / counts).astype(np.float32), counts)
    averaged = averaging @ encodings
    averaged.sort_indices()
    return averaged
