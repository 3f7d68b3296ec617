"""Unsupervised Re-ID: pseudo-labels from clusters, training against a memory of clusters, adaptation to a target."""
