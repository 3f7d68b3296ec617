"""k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017).

The steps and their edge cases are those of the authors' implementation, which the field's numbers come from: distances
are squared and divided by each image's largest one, half of k1 is rounded to even, and a candidate's set is merged when
more than two thirds of it are shared. No N × N matrix is made: sets and encodings are sparse.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional.checks import check_features
from diffreid_lightning.metrics.functional.knn import PooledFeatures, nearest_neighbors
from diffreid_lightning.metrics.functional.reciprocal_encoding import (
    average_encodings,
    expand_reciprocal_sets,
    member_distances,
    weigh_members,
)
from diffreid_lightning.metrics.functional.shared_minima import SharedMinima


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
    query_features, gallery_features = check_features(query_features=query_features, gallery_features=gallery_features)
    pool = PooledFeatures(query_features=query_features, gallery_features=gallery_features)

    # 1. Neighbors, each image the first among its own. 2. Reciprocal sets. 3. Encodings. 4. Local query expansion.
    result = np.empty((len(query_features), len(gallery_features)), dtype=np.float32)
    neighborhoods = nearest_neighbors(pool, min(max(k1 + 1, k2), len(pool)), query_gallery=result)
    sets = expand_reciprocal_sets(neighborhoods.indices[:, : k1 + 1], round(k1 / 2) + 1)
    owner, distances = member_distances(sets, pool, neighborhoods)
    weights = np.exp(-np.square(distances) / _positive(neighborhoods.farthest**2)[owner])
    encodings = weigh_members(sets, owner, weights)
    if k2 > 1:
        encodings = average_encodings(encodings, neighborhoods.indices[:, :k2])

    # 5. The final distance: Jaccard distance of the encodings, mixed with the original distance.
    _mix(result, neighborhoods.farthest[: len(result)], encodings, lambda_value)
    return torch.from_numpy(result).to(query_features.device)


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
    scale = lambda_value / _positive(farthest**2)
    minima = SharedMinima(encodings[: len(distances)], encodings[len(distances) :])

    def mix(start: int, stop: int) -> None:
        shared = minima.sums(start, stop)
        original = np.square(distances[start:stop]) * scale[start:stop, None]
        distances[start:stop] = original + (1 - lambda_value) * (1 - shared / (2 - shared))

    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        list(workers.map(lambda some: mix(*some), minima.runs(torch.get_num_threads())))


def _positive(values: np.ndarray) -> np.ndarray:
    """The values, with 1 for those that are 0: what is divided by them is 0 as well."""
    return np.where(values > 0, values, np.float32(1))
