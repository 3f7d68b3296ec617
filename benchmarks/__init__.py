"""Measurements of the package, each a script of its own: ``python -m benchmarks.NAME``."""
