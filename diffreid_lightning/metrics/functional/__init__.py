"""Pure functions of Re-ID evaluation, re-ranking and distances for clustering."""

from __future__ import annotations

from diffreid_lightning.metrics.functional.jaccard import camera_jaccard_distances, jaccard_distances
from diffreid_lightning.metrics.functional.nearest_gallery import RankList, rank_list
from diffreid_lightning.metrics.functional.reranking import k_reciprocal_rerank
from diffreid_lightning.metrics.functional.result import RetrievalResult
from diffreid_lightning.metrics.functional.retrieval import retrieval_metrics, retrieval_metrics_from_distances

__all__ = [
    "RankList",
    "RetrievalResult",
    "camera_jaccard_distances",
    "jaccard_distances",
    "k_reciprocal_rerank",
    "rank_list",
    "retrieval_metrics",
    "retrieval_metrics_from_distances",
]
