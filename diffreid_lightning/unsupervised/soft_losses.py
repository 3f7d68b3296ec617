"""Losses against a teacher's predictions (Mutual Mean-Teaching, Ge et al., ICLR 2020, arXiv 2001.01526)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the cross-entropy of a student's classes against a teacher's probabilities (equation 6).

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits; no gradient reaches them.

    Returns:
        The scalar mean over the batch, >= 0.
    """
    return -(F.softmax(teacher.detach().float(), dim=1) * F.log_softmax(student.float(), dim=1)).sum(dim=1).mean()


def soft_triplet(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Compute the binary cross-entropy of a student's triplets against a teacher's (equations 7 and 8).

    Each anchor's triplet is its farthest positive and nearest negative among the student's features, as in batch-hard
    mining. A triplet's probability is the softmax of its two Euclidean distances. Anchors without another image of
    their label, or without one of another label, are left out; without any triplet the loss is 0.

    Args:
        student: (B, D) features.
        teacher: (B, E) features of the same images; no gradient reaches them.
        labels: (B,) identity or cluster of each row.

    Returns:
        The scalar mean over the anchors, >= 0.
    """
    own = _distances(student.float())
    teachers = _distances(teacher.detach().float())
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchors = (positive.any(dim=1) & ~same.all(dim=1)).nonzero().flatten()
    farthest = own.detach().masked_fill(~positive, -1.0).argmax(dim=1)[anchors]
    nearest = own.detach().masked_fill(same, torch.inf).argmin(dim=1)[anchors]
    pairs = torch.stack([own[anchors, farthest], own[anchors, nearest]], dim=1)
    references = torch.stack([teachers[anchors, farthest], teachers[anchors, nearest]], dim=1)
    losses = -(F.softmax(references, dim=1) * F.log_softmax(pairs, dim=1)).sum(dim=1)
    return losses.sum() / max(1, len(anchors))


def _distances(features: Tensor) -> Tensor:
    # Pair by pair: the root of |a|² + |b|² − 2ab has no gradient at 0, where two copies of one image lie.
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
