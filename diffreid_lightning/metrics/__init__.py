"""Re-ID evaluation: pure functions in `functional`, a torchmetrics shell in `retrieval_metrics`."""

from __future__ import annotations

from diffreid_lightning.metrics.functional import RetrievalResult
from diffreid_lightning.metrics.retrieval_metrics import RetrievalFeatures, RetrievalMetrics

__all__ = ["RetrievalFeatures", "RetrievalMetrics", "RetrievalResult"]
