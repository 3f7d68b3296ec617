"""Re-ID evaluation as a torchmetrics metric: collects features, gathers them once, evaluates them together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from diffreid_lightning.errors import RunError, UserError, check_range
from diffreid_lightning.metrics.functional import (
    RetrievalResult,
    k_reciprocal_rerank,
    retrieval_metrics,
    retrieval_metrics_from_distances,
)
from diffreid_lightning.metrics.functional.checks import check_distance
from diffreid_lightning.metrics.functional.tiled_matmul import Distance


@dataclass(frozen=True, eq=False)
class RetrievalFeatures:
    """Features collected by a metric on all processes: each image once, in the dataset's order, on the CPU.

    Args:
        query_features: (Q, D) float32.
        gallery_features: (G, D) float32.
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_camids: (Q,) int64.
        gallery_camids: (G,) int64.
        query_indices: (Q,) int64 rows of the dataset, ascending.
        gallery_indices: (G,) int64 rows of the dataset, ascending.
    """

    query_features: Tensor
    gallery_features: Tensor
    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor
    gallery_camids: Tensor
    query_indices: Tensor
    gallery_indices: Tensor


class RetrievalMetrics(Metric):
    """CMC, mAP and mINP of features collected batch by batch, on any number of processes.

    Pass every query and gallery image to :meth:`update` once; images that a distributed sampler repeats are identified
    by ``indices`` and counted once. :meth:`compute` gathers all features on every process and returns the same
    :class:`RetrievalResult` as a single process. Features are stored on the CPU; products run on the metric's device.

    Call ``update``, not the metric itself: a single batch cannot be evaluated.

    Args:
        distance: ``"cosine"`` or ``"euclidean"``.
        rerank: evaluate k-reciprocal re-ranked distances (k1 20, k2 6, lambda 0.3), which require cosine.
        max_rank: depth of the CMC curve, at least 1.

    Raises:
        UserError: an argument is out of range, or ``rerank`` is given with another distance than cosine.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    features: list[Tensor]
    pids: list[Tensor]
    camids: list[Tensor]
    is_query: list[Tensor]
    indices: list[Tensor]

    def __init__(self, distance: Distance = "cosine", rerank: bool = False, max_rank: int = 50) -> None:
        super().__init__(dist_sync_fn=_gather_on_cpu)
        check_distance(distance)
        check_range("max_rank", max_rank, 1, 1_000_000)
        if rerank and distance != "cosine":
            raise UserError("Re-ranking requires cosine distances.", remedy="set distance to cosine.")
        self.distance: Distance = distance
        self.rerank = rerank
        self.max_rank = max_rank
        self._gathered: RetrievalFeatures | None = None
        for state in ("features", "pids", "camids", "is_query", "indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, pids: Tensor, camids: Tensor, is_query: Tensor, indices: Tensor) -> None:
        """Add a batch.

        Args:
            features: (B, D), any floating dtype.
            pids: (B,) integer person ids.
            camids: (B,) integer camera ids.
            is_query: (B,) bool, True for query images and False for gallery images.
            indices: (B,) integers, each image's row in a common table of query and gallery images.

        Raises:
            UserError: the shapes do not fit together.
        """
        rows = {"pids": pids, "camids": camids, "is_query": is_query, "indices": indices}
        if features.ndim != 2 or any(values.shape != features.shape[:1] for values in rows.values()):
            raise UserError(
                "An update needs (B, D) features and one id of each kind per row.",
                found=", ".join(f"{name} {tuple(v.shape)}" for name, v in {"features": features, **rows}.items()),
            )
        # Flat, so that a process without images can gather with the others without knowing D.
        self.features.append(features.detach().to("cpu", torch.float32, copy=True).flatten())
        for name, values in rows.items():
            getattr(self, name).append(values.detach().to("cpu", torch.int64, copy=True))
        self._gathered = None

    def compute(self) -> RetrievalResult:
        """Evaluate the collected features of all processes.

        Raises:
            UserError: there are no images, no query has a match, or two images share an index.
        """
        gathered = self._gather()
        self._gathered = gathered
        query, gallery = gathered.query_features.to(self.device), gathered.gallery_features.to(self.device)
        ids = (gathered.query_pids, gathered.gallery_pids, gathered.query_camids, gathered.gallery_camids)
        if self.rerank:
            distances = k_reciprocal_rerank(query, gallery)
            return retrieval_metrics_from_distances(distances, *ids, max_rank=self.max_rank)
        return retrieval_metrics(query, gallery, *ids, distance=self.distance, max_rank=self.max_rank)

    def last_features(self) -> RetrievalFeatures:
        """Return the features of the last :meth:`compute`.

        Raises:
            RunError: ``compute`` was not called after the last ``update`` or ``reset``.
        """
        if self._gathered is None:
            raise RunError("No features are gathered.", remedy="call compute() first; update and reset discard them.")
        return self._gathered

    def reset(self) -> None:
        """Discard the collected features."""
        super().reset()
        self._gathered = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; those without images contribute empty states."""
        if not self.indices:
            self.features.append(torch.empty(0))
            for name in ("pids", "camids", "is_query", "indices"):
                getattr(self, name).append(torch.empty(0, dtype=torch.int64))
        super().sync(*args, **kwargs)

    def _gather(self) -> RetrievalFeatures:
        """Return the synchronized states in the dataset's order, each image once."""
        states = (self.indices, self.pids, self.camids, self.is_query)
        if not len(self.indices) or not len(dim_zero_cat(self.indices)):
            raise UserError("There is nothing to evaluate: the metric received no image.")
        indices, pids, camids, is_query = (dim_zero_cat(state).cpu() for state in states)
        features = dim_zero_cat(self.features).cpu().view(len(indices), -1)
        order = torch.argsort(indices, stable=True)
        ordered = indices[order]
        repeated = torch.cat([torch.tensor([False]), ordered[1:] == ordered[:-1]])
        for values in (pids, camids, is_query):
            clash = (values[order][1:] != values[order][:-1]) & repeated[1:]
            if clash.any():
                raise UserError(
                    f"Different images share the index {int(ordered[1:][clash][0])}.",
                    remedy="number query and gallery images together, not each from 0.",
                )
        once = order[~repeated]
        query, gallery = once[is_query[once] != 0], once[is_query[once] == 0]
        columns = (features, pids, camids, indices)
        return RetrievalFeatures(*(column[rows] for column in columns for rows in (query, gallery)))

    def _wrap_compute(self, compute: Callable[[], RetrievalResult]) -> Callable[[], RetrievalResult]:
        """Hide the result from torchmetrics, which rebuilds collections and squeezes their tensors."""
        wrapped = super()._wrap_compute(lambda: _Sealed(compute()))

        @functools.wraps(compute)
        def unwrap() -> RetrievalResult:
            return wrapped().result

        return unwrap


class _Sealed:
    """A result in a form that torchmetrics does not treat as a collection."""

    def __init__(self, result: RetrievalResult) -> None:
        self.result = result


def _gather_on_cpu(values: Tensor, group: Any | None = None) -> list[Tensor]:
    """Gather a tensor of every process to the CPU, through the GPU if the backend requires it."""
    backend = torch.distributed.get_backend(group)
    if "gloo" in backend or "mpi" in backend:
        return gather_all_tensors(values.cpu(), group)
    return [part.cpu() for part in gather_all_tensors(values.cuda(), group)]
