"""Lightning callbacks: evaluation, rank lists, exports, the run report."""
