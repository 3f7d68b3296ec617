"""Compute losses against a teacher's predictions (Mutual Mean-Teaching, Ge et al., ICLR 2020, arXiv 2001.01526)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.reid.losses.pairs import euclidean_distances, mean_over_anchors, pair_masks


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
    own, teachers = euclidean_distances(student.float()), euclidean_distances(teacher.detach().float())
    positive, negative, anchors = pair_masks(labels)
    farthest = own.detach().masked_fill(~positive, -1.0).argmax(dim=1)
    nearest = own.detach().masked_fill(~negative, torch.inf).argmin(dim=1)
    columns = torch.stack([farthest, nearest], dim=1)[anchors]
    pairs, references = own[anchors].gather(1, columns), teachers[anchors].gather(1, columns)
    losses = -(F.softmax(references, dim=1) * F.log_softmax(pairs, dim=1)).sum(dim=1)
    return mean_over_anchors(losses, anchors, None)
