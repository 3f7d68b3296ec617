"""Compute the Cluster-Contrast loss against a memory of one vector per cluster (Dai et al., arXiv 2103.11568)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.backbones.heads import cosine_matrix
from diffreid_lightning.errors import check_range
from diffreid_lightning.reid.losses.base import ReIDLoss
from diffreid_lightning.reid.losses.label_smoothing import label_smoothed_cross_entropy
from diffreid_lightning.reid.outputs import ReIDOutputs

Rule = Literal["each", "mean", "hard"]


def cluster_memory_loss(
    embeddings: Tensor, labels: Tensor, memory: Tensor, *, temperature: float = 0.05, weights: Tensor | None = None
) -> Tensor:
    """Compute the cross-entropy of an image's cluster among all clusters, by cosine over temperature (equation 2).

    Args:
        embeddings: (B, D) embeddings; scaled to unit length here, half precision is computed in float32.
        labels: (B,) cluster of each row, int64 in [0, C).
        memory: (C, D) cluster vectors of unit length; no gradient reaches them.
        temperature: > 0.
        weights: (B,) how much each row counts in the average, >= 0; None when all count alike.

    Returns:
        The scalar loss, >= 0.
    """
    logits = cosine_matrix(embeddings, memory) / temperature
    return label_smoothed_cross_entropy(logits, labels, smoothing=0.0, weights=weights)


@torch.no_grad()
def update_memory(
    memory: Tensor, embeddings: Tensor, labels: Tensor, *, momentum: float = 0.1, rule: Rule = "each", push: float = 0.0
) -> Tensor:
    """Move cluster vectors towards the images of a batch: ``m ← momentum · m + (1 − momentum) · x`` (equation 3).

    Args:
        memory: (C, D) unit vectors; a row of zeros stands for a cluster that has not been seen.
        embeddings: (N, D) embeddings, scaled to unit length here.
        labels: (N,) int64 cluster of each row.
        momentum: share of the old vector that is kept, in [0, 1).
        rule: x is ``each`` image of the cluster in turn, their ``mean``, or the ``hard`` one, which is the least
            similar to the cluster's vector.
        push: afterwards each drawn cluster's vector moves away from its nearest other vector, by this share of it
            (inter-cluster term); 0 switches it off.

    Returns:
        (C, D) float32 unit vectors.
    """
    units, memory = F.normalize(embeddings.float()), memory.float().clone()
    drawn = labels.unique()
    if rule == "mean":
        counts = torch.bincount(labels, minlength=len(memory))[drawn, None]
        sums = torch.zeros_like(memory).index_add_(0, labels, units)[drawn]
        _move(memory, drawn, sums / counts, momentum)
    elif rule == "hard":
        similarity = (units * memory[labels]).sum(dim=1)
        order = similarity.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        _, counts = labels[order].unique_consecutive(return_counts=True)
        first = order[counts.cumsum(0) - counts]
        _move(memory, drawn, units[first], momentum)
    else:
        # Clusters do not touch each other's vectors: the n-th images of all of them are taken at once.
        turns = _occurrence(labels)
        for turn in range(int(turns.max()) + 1):
            rows = turns == turn
            _move(memory, labels[rows], units[rows], momentum)
    if push > 0 and len(memory) > 1:
        similarity = memory[drawn] @ memory.T
        similarity[torch.arange(len(drawn), device=drawn.device), drawn] = -torch.inf
        memory[drawn] = F.normalize(memory[drawn] - push * memory[similarity.argmax(dim=1)])
    return memory


def _move(memory: Tensor, clusters: Tensor, towards: Tensor, momentum: float) -> None:
    memory[clusters] = F.normalize(momentum * memory[clusters] + (1 - momentum) * towards)


def _occurrence(labels: Tensor) -> Tensor:
    """Count, for each row, the rows of its label before it."""
    order = labels.argsort(stable=True)
    _, counts = labels[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turns = torch.empty_like(labels)
    turns[order] = torch.arange(len(labels), device=labels.device) - starts
    return turns


class ClusterMemory(ReIDLoss):
    """Contrast embeddings with a memory of one vector per cluster; with identity labels, per identity.

    The memory follows the embeddings without a gradient, after each optimizer step, from the images of all processes
    and accumulated batches; it is part of the checkpoint.

    Args:
        temperature: of the softmax over clusters, > 0.
        momentum: share of a cluster's old vector that an update keeps, 0 up to, not including, 1.
        rule: which images of the batch move a cluster's vector: ``each`` in turn, their ``mean``, or the ``hard``
            one.
        push: share of its nearest other vector that a drawn cluster's vector moves away by; 0 for none.
        weight: factor of this loss in the training objective, >= 0.

    Raises:
        UserError: an argument is out of range.
    """

    name: ClassVar[str] = "memory"

    memory: Tensor

    def __init__(
        self,
        temperature: float = 0.05,
        momentum: float = 0.1,
        rule: Rule = "each",
        push: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_range("ClusterMemory.temperature", temperature, 0, above=True)
        check_range("ClusterMemory.momentum", momentum, 0, 1, below=True)
        check_range("ClusterMemory.push", push, 0, 1, below=True)
        self.temperature = temperature
        self.momentum = momentum
        self.rule: Rule = rule
        self.push = push
        self.register_buffer("memory", torch.zeros(0, 0))

    def build(self, num_features: int, num_identities: int) -> None:
        """Start with a memory of zeros, which the first images of each cluster replace."""
        self.memory = self.memory.new_zeros(num_identities, num_features, dtype=torch.float32)

    def fill(self, vectors: Tensor) -> None:
        """Start with given vectors, (C, D) of any length, such as the clusters' means."""
        self.memory = F.normalize(vectors.float()).to(self.memory.device)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the scores of the clusters for (B, D) embeddings, (B, C)."""
        return cosine_matrix(embeddings, self.memory) / self.temperature

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        """Contrast ``outputs.embeddings``; see :class:`ReIDLoss`."""
        return cluster_memory_loss(
            outputs.embeddings, labels, self.memory, temperature=self.temperature, weights=outputs.weights
        )

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Move the drawn clusters' vectors; see :func:`update_memory`."""
        self.memory = update_memory(
            self.memory, embeddings, labels, momentum=self.momentum, rule=self.rule, push=self.push
        )
