"""The losses of one training objective: names, weighted sum, and the state that they keep between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.losses import ClusterMemory, ReIDLoss
from diffreid_lightning.reid.losses.base import MetricLoss
from diffreid_lightning.reid.outputs import ReIDOutputs


class LossList(nn.ModuleList):
    """Losses that are summed by their weights.

    Args:
        losses: at least one.
        prefix: of their names in the log.

    Attributes:
        names: of the losses in the log; the second of a name as ``NAME_2``.

    Raises:
        UserError: there is none, or one is no :class:`~.losses.ReIDLoss`.
    """

    def __init__(self, losses: Sequence[nn.Module], prefix: str = "") -> None:
        self.names = [prefix + name for name in name_losses(losses)]
        self._since_step: list[tuple[Tensor, Tensor]] = []
        super().__init__(losses)

    def __iter__(self) -> Iterator[ReIDLoss]:
        """Iterate over the losses."""
        return cast(Iterator[ReIDLoss], super().__iter__())

    @property
    def reads_embeddings(self) -> bool:
        """Return true if a loss reads what comes after the neck; metric losses may compare the features alone."""
        return any(not isinstance(loss, MetricLoss) or loss.compares == "embeddings" for loss in self)

    def fill(self, means: Tensor) -> None:
        """Size the losses for (C, D) mean embeddings of clusters, and start their memories with these."""
        for loss in self:
            loss.build(means.shape[1], len(means))
            loss.to(means.device)
            if isinstance(loss, ClusterMemory):
                loss.fill(means)

    def weigh(
        self, outputs: ReIDOutputs, labels: Tensor, parts: Sequence[int], groups: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses.

        Args:
            outputs: of the network.
            labels: (B,) int64.
            parts: dimensions of each part of the feature that is classified by itself.
            groups: dimensions of each group of parts that images are compared by.

        Returns:
            The weighted sum, and each loss by name without its weight. Of a feature with several parts, a loss takes
            the mean over the pieces of its ``scope``.
        """
        pieces = {
            "whole": [outputs],
            "part": outputs.split(parts, outputs.part_logits) if outputs.part_logits else [outputs],
            "group": outputs.split(groups),
        }
        values = [torch.stack([loss(piece, labels) for piece in pieces[loss.scope]]).mean() for loss in self]
        total = torch.stack([loss.weight * value for loss, value in zip(self, values, strict=True)]).sum()
        return total, dict(zip(self.names, values, strict=True))

    def remember(self, embeddings: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Keep (B, D) embeddings and (B,) labels of a batch until :meth:`update`, if a loss has state of its own.

        Rows with a label below 0, or a weight of 0, are dropped there: all processes have to hand over equally many.
        """
        if any(loss.has_update for loss in self):
            if weights is not None:
                labels = torch.where(weights > 0, labels, -1)
            self._since_step.append((embeddings.detach().float(), labels))

    def update(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Update the losses' own state with all batches since the last time.

        Args:
            gather: concatenates what the processes hold, by rank. So every process sees the embeddings of all, in the
                order in which one process would have drawn the batches: the state stays equal, and is the same as under
                gradient accumulation.
        """
        since_step, self._since_step = self._since_step, []
        if not since_step:
            return
        gathered = [(gather(embeddings), gather(labels)) for embeddings, labels in since_step]
        embeddings, labels = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        known = labels >= 0
        if known.any():
            for loss in self:
                loss.update(embeddings[known], labels[known])


def name_losses(losses: Sequence[nn.Module]) -> list[str]:
    """Name each loss in the log: two of one class must not hide one another, nor the module's own numbers.

    Raises:
        UserError: there is none, or one is no :class:`~.losses.ReIDLoss`.
    """
    if not losses:
        raise UserError("model.losses is empty.", remedy="leave it out for the default losses")
    taken = {"loss", "accuracy", "learning_rate"}
    names = []
    for loss in losses:
        if not isinstance(loss, ReIDLoss):
            raise UserError(
                f"{type(loss).__name__} cannot be one of model.losses.",
                looked_for="ReIDLoss modules, which take the network's outputs and the labels",
                remedy="derive it from diffreid_lightning.reid.losses.ReIDLoss",
            )
        name, count = loss.name, 1
        while name in taken:
            count += 1
            name = f"{loss.name}_{count}"
        taken.add(name)
        names.append(name)
    return names
