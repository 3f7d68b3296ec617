"""Compute the distances of the pairs of a batch, and which pairs show one person."""

from __future__ import annotations

import torch
from torch import Tensor

from diffreid_lightning.reid.losses.base import weighted_mean


def euclidean_distances(features: Tensor) -> Tensor:
    """Return the (B, B) Euclidean distances of (B, D) features, with finite gradients.

    Differences are formed pair by pair: |a|² + |b|² − 2ab loses near neighbors to rounding, and its root has no
    gradient at 0, where two copies of one image lie.
    """
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tell which images of a batch show one person.

    Args:
        labels: (B,) identity of each image.

    Returns:
        (B, B) true for two images of one identity, (B, B) true for images of two, and (B,) true for the anchors, which
        have both. An image is no pair with itself.
    """
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return positive, ~same, positive.any(dim=1) & ~same.all(dim=1)


def mean_over_anchors(losses: Tensor, anchors: Tensor, weights: Tensor | None) -> Tensor:
    """Average the losses of the anchors; 0, with a gradient, where there are none.

    Args:
        losses: (A,) losses of the A anchors.
        anchors: (B,) true for the anchors of the batch.
        weights: (B,) how much each image counts, >= 0; None when all count alike.
    """
    if weights is not None:
        return weighted_mean(losses, weights[anchors])
    return losses.sum() / anchors.sum().clamp(min=1)
