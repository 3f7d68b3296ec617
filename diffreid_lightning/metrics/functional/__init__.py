"""Pure functions of Re-ID evaluation and re-ranking."""

from __future__ import annotations

from diffreid_lightning.metrics.functional.ranking import RankList, rank_list
from diffreid_lightning.metrics.functional.reranking import k_reciprocal_rerank
from diffreid_lightning.metrics.functional.result import RetrievalResult
from diffreid_lightning.metrics.functional.retrieval import retrieval_metrics, retrieval_metrics_from_distances

__all__ = [
    "RankList",
    "RetrievalResult",
    "k_reciprocal_rerank",
    "rank_list",
    "retrieval_metrics",
    "retrieval_metrics_from_distances",
]
