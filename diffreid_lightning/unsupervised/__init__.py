"""Unsupervised Re-ID: cluster unlabeled images and train on the clusters."""
