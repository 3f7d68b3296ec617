"""Re-ID evaluation: pure functions in `functional`, a torchmetrics shell in `retrieval`."""
