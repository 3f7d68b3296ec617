"""Compute k-reciprocal Jaccard distances of all pairs of one set of images, plain and camera-aware, sparse and exact.

Images without a common neighbor have distance 1 exactly, so for a limit below 1 only images that share some are
compared and no N × N matrix is made. The convention is that of cluster-based unsupervised Re-ID (Ge et al.,
"Self-paced Contrastive Learning with Hybrid Memory", NeurIPS 2020; Dai et al., "Cluster Contrast", ACCV 2022). It is
not that of :mod:`~diffreid_lightning.metrics.functional.reranking`: k1 counts the image itself, and members are
weighed by the squared Euclidean distance of unit vectors, not scaled by the farthest image.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.metrics.functional.checks import cameras_are_known, check_features
from diffreid_lightning.metrics.functional.knn import Neighborhoods, PooledFeatures, nearest_neighbors
from diffreid_lightning.metrics.functional.near_pairs import Pairs, symmetric_matrix
from diffreid_lightning.metrics.functional.reciprocal_encoding import (
    average_encodings,
    expand_reciprocal_sets,
    member_distances,
    reciprocal_members,
    rows_of_members,
    weigh_members,
)
from diffreid_lightning.metrics.functional.shared_minima import SharedMinima
from diffreid_lightning.metrics.functional.tiled_matmul import norms
from diffreid_lightning.metrics.functional.topk import places

MOST_NEIGHBORS = 1000
"""Largest neighborhood: memory grows with its square."""


def jaccard_distances(features: Tensor, eps: float, *, k1: int = 30, k2: int = 6) -> sparse.csr_array:
    """Compute the Jaccard distances up to ``eps``.

    Args:
        features: (N, D), any floating dtype, on any device; compared by cosine.
        eps: largest distance that is stored, between 0 and 1.
        k1: neighbors, the image itself among them, whose reciprocal ones encode an image; 1 .. 1,000. Of fewer images
            all are neighbors.
        k2: neighbors, the image itself among them, over which encodings are averaged; 1 .. 1,000.

    Returns:
        (N, N) float32, symmetric, sorted indices. Zeros are stored: the diagonal, and images with the same neighbors.
        All pairs that are not stored are farther than ``eps``. The same for every number of threads.

    Raises:
        UserError: features that are empty or not finite, or a parameter outside its range.
        RunError: nearly all images are near each other, too many to be stored.
    """
    check_range("eps", eps, 0, 1, above=True, below=True)
    check_neighborhoods(k1=k1, k2=k2)
    (features,) = check_features(features=features)
    pool = PooledFeatures(features=features)

    # 1. Neighbors. 2. Reciprocal sets. 3. Encodings: softmax of -d over a set, d = 2 - 2 cos. 4. Local query expansion.
    found = _itself_first(nearest_neighbors(pool, min(max(k1, k2), len(pool))))
    sets = expand_reciprocal_sets(found.indices[:, :k1], round(k1 / 2) + 1)
    owner, distances = member_distances(sets, pool, found)
    encodings = weigh_members(sets, owner, np.exp(-2 * distances))
    encodings = average_encodings(encodings, found.indices[:, :k2])

    # 5. Distances of pairs with common members.
    return _distances_of_encodings(encodings, eps)


def camera_jaccard_distances(
    features: Tensor,
    camids: npt.NDArray[np.int64],
    eps: float,
    *,
    k1_within: int = 5,
    k1_across: int = 20,
    k2_within: int = 2,
    k2_across: int = 4,
) -> sparse.csr_array:
    """Compute the camera-aware Jaccard distances up to ``eps``.

    Chen et al., "CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification", CVPR 2024: neighbors are
    sought within the image's camera and across the others separately, so that images of one camera, which are alike
    whoever they show, do not crowd out the others. The reciprocal sets of both sides are united and not expanded. As
    in the authors' implementation, ``k1`` does not count the image itself within its camera, and one more image than
    ``k1`` is taken across cameras, while ``k2`` counts the image itself. A camera with fewer images has smaller
    neighborhoods.

    Args:
        features: (N, D), any floating dtype, on any device; compared by cosine.
        camids: (N,) camera numbers, at least two different ones.
        eps: largest distance that is stored, between 0 and 1.
        k1_within: neighbors of the same camera that may encode an image, 1 .. 1,000.
        k1_across: neighbors of other cameras that may encode an image, 1 .. 1,000.
        k2_within: neighbors of the same camera over which encodings are averaged, 1 .. 1,000.
        k2_across: neighbors of other cameras over which encodings are averaged, 1 .. 1,000.

    Returns:
        (N, N) float32 as :func:`jaccard_distances` has it.

    Raises:
        UserError: features that are empty or not finite, cameras that are not known, or a parameter outside its range.
        RunError: nearly all images are near each other, too many to be stored.
    """
    check_range("eps", eps, 0, 1, above=True, below=True)
    check_neighborhoods(k1_within=k1_within, k1_across=k1_across, k2_within=k2_within, k2_across=k2_across)
    (features,) = check_features(features=features)
    norms("features", features)  # names a row by its place before the images are sorted
    _check_cameras(camids, len(features))

    # 1. Neighbors on both sides. 2. Reciprocal sets. 3. Encodings. 4. Local query expansion, over both sides.
    within, across = _neighbors_by_camera(
        features, camids, max(k1_within + 1, k2_within), max(k1_across + 1, k2_across)
    )
    narrow = [within.indices[:, : k1_within + 1], across.indices[:, : k1_across + 1]]
    chosen = np.concatenate([reciprocal_members(side) for side in narrow], axis=1)
    sets = rows_of_members(np.concatenate(narrow, axis=1), chosen)
    distances = np.concatenate([within.distances[:, : k1_within + 1], across.distances[:, : k1_across + 1]], axis=1)
    owner = np.repeat(np.arange(len(features)), chosen.sum(axis=1))
    encodings = weigh_members(sets, owner, np.exp(-2 * distances[chosen]))
    expanding = np.concatenate([within.indices[:, :k2_within], across.indices[:, :k2_across]], axis=1)
    encodings = average_encodings(encodings, expanding)

    # 5. Distances of pairs with common members.
    return _distances_of_encodings(encodings, eps)


def check_neighborhoods(**counts: int) -> None:
    """Refuse neighborhoods that are empty or too large to be intersected.

    Raises:
        UserError: one of the sizes is not in 1 .. 1,000.
    """
    for name, count in counts.items():
        check_range(name, count, 1, MOST_NEIGHBORS)


def _check_cameras(camids: npt.NDArray[np.int64], images: int) -> None:
    if camids.shape != (images,):
        raise UserError("camids must hold one number per image.", looked_for=f"({images},)", found=str(camids.shape))
    if not cameras_are_known(camids):
        seen = f"all of camera {camids[0]}" if (camids == camids[0]).all() else "each from a camera of its own"
        raise UserError(
            "A camera-aware distance needs images of at least two cameras.",
            found=f"{images:,} images, {seen}",
            remedy="use JaccardDistance for images of one camera; if there were several, their numbers were not found "
            "in the names or folders of the images.",
        )


def _itself_first(neighborhoods: Neighborhoods) -> Neighborhoods:
    """Put each image first among its own neighbors, before copies of it that rounding or a smaller index puts there."""
    images = np.arange(len(neighborhoods.indices))
    itself = neighborhoods.indices == images[:, None]
    itself[~itself.any(axis=1), -1] = True  # of more than k copies, the last gives way
    order = np.argsort(~itself, axis=1, kind="stable")
    indices = np.take_along_axis(neighborhoods.indices, order, axis=1)
    distances = np.take_along_axis(neighborhoods.distances, order, axis=1)
    indices[:, 0], distances[:, 0] = images, 0
    return replace(neighborhoods, indices=indices, distances=distances)


def _neighbors_by_camera(
    features: Tensor, camids: npt.NDArray[np.int64], k_within: int, k_across: int
) -> tuple[Neighborhoods, Neighborhoods]:
    """Find the neighbors of each image within its camera, itself first, and across the other cameras.

    Images are sorted by camera: those that are left out across cameras are then neighboring columns.
    """
    order = np.argsort(camids, kind="stable")
    cameras = camids[order]
    by_camera = features[torch.from_numpy(order).to(features.device)]
    across = nearest_neighbors(PooledFeatures(features=by_camera), k_across, groups=cameras)
    within = Neighborhoods(
        np.full((len(order), k_within), -1),
        np.full((len(order), k_within), np.nan, dtype=np.float32),
        np.zeros(len(order), dtype=np.float32),
    )
    starts = np.flatnonzero(np.diff(cameras, prepend=cameras[0] - 1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        pool = PooledFeatures(features=by_camera[start:stop])
        found = _itself_first(nearest_neighbors(pool, min(k_within, stop - start)))
        within.indices[start:stop, : found.indices.shape[1]] = found.indices + start
        within.distances[start:stop, : found.indices.shape[1]] = found.distances
    return _renumbered(within, order), _renumbered(across, order)


def _renumbered(neighborhoods: Neighborhoods, order: np.ndarray) -> Neighborhoods:
    """Give image ``i`` of sorted ones back its number ``order[i]``."""
    back = np.argsort(order)
    indices = np.where(neighborhoods.indices < 0, -1, order[neighborhoods.indices])
    return Neighborhoods(indices[back], neighborhoods.distances[back], neighborhoods.farthest[back])


def _distances_of_encodings(encodings: sparse.csr_array, eps: float) -> sparse.csr_array:
    """Compute the distances up to ``eps`` of rows that sum to 1: 1 - intersection / union (eq. 10)."""
    minima = SharedMinima(encodings)
    # Rows sum to 1, so the union is 2 - intersection. What rounding may still let through is compared in float32.
    least = max(2 * (1 - eps) / (2 - eps) - 1e-6, np.finfo(np.float64).tiny)

    def near(rows: tuple[int, int]) -> Pairs:
        start, stop = rows
        shared = minima.sums(start, stop, first=start + 1)
        row, column = places(shared >= least)
        shared = shared[row, column]
        distances = np.maximum(1 - shared / (2 - shared), 0).astype(np.float32)
        kept = distances <= np.float32(eps)
        row, column = (start + row[kept]).astype(np.int32), (start + 1 + column[kept]).astype(np.int32)
        return row, column, distances[kept]

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as workers:
        parts: Iterator[Pairs] = workers.map(near, minima.runs(threads))
        return symmetric_matrix(encodings.shape[0], parts)
