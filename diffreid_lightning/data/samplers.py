"""Sampling: P×K batches (P identities, K images of each), or every row once an epoch.

Every draw carries its own augmentation seed, so a batch is the same whatever the number of loader workers, and a run
that continues from an epoch boundary sees the data it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch.distributed
from torch.utils.data import DistributedSampler

from diffreid_lightning.errors import UserError


class Draw(NamedTuple):
    """One image of a training batch: its row, and the seed of its augmentation."""

    row: int
    seed: int


def draw_pk_epoch(
    labels: npt.NDArray[np.int64], identities: int, images: int, rng: np.random.Generator, *, multiple_of: int = 1
) -> npt.NDArray[np.int64]:
    """Draw one epoch of P×K batches.

    An epoch is a number of rounds, ``max(1, round(mean images per identity / K))``. A round visits every identity
    once, in random order; a visit takes K images from the identity's shuffled deck, which is reshuffled when it runs
    out (an identity with fewer than K images repeats them). The sequence of visits is cut into batches of P distinct
    identities; where it does not divide, identities are visited once more. So an identity appears ``rounds`` or
    ``rounds + 1`` times an epoch, and never twice in a batch.

    Args:
        labels: (N,) identity of each row.
        identities: P, identities in a batch.
        images: K, images of each.
        rng: source of all randomness.
        multiple_of: the number of batches is filled up to a multiple of this (the number of processes).

    Returns:
        (batches, P * K) row indices.

    Raises:
        UserError: fewer than P identities, or a P or K that is not positive.
    """
    decks = _group_rows(labels)
    if identities < 1 or images < 1:
        raise UserError(
            f"A batch of {identities} identities × {images} images is empty.", remedy="give both at least 1"
        )
    if len(decks) < identities:
        raise UserError(
            f"A batch wants {identities} different identities; the training set has {len(decks)}.",
            remedy=f"set --data.sampler.init_args.identities_per_batch to {len(decks)} or fewer, or give more data",
        )
    rounds = max(1, round(len(labels) / len(decks) / images))
    batches = -(-rounds * len(decks) // identities)
    batches += -batches % multiple_of
    order = _visits(len(decks), identities, batches, rng)
    chosen = np.empty((len(order), images), dtype=np.int64)
    for identity in range(len(decks)):
        visits = np.flatnonzero(order == identity)
        chosen[visits] = _deal(decks[identity], len(visits) * images, rng).reshape(len(visits), images)
    return chosen.reshape(batches, identities * images)


def _group_rows(labels: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(labels, kind="stable")
    boundaries = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, boundaries) if len(labels) else []


def _visits(count: int, per_batch: int, batches: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Concatenate random permutations of ``count`` identities so that no batch holds one of them twice."""
    sequence: list[int] = []
    while len(sequence) < batches * per_batch:
        permutation = rng.permutation(count).tolist()
        begun = len(sequence) % per_batch
        if begun:  # the batch across the seam: whoever is in it already waits for the next batch
            present = set(sequence[-begun:])
            room = per_batch - begun
            early = [identity for identity in permutation if identity not in present][:room]
            taken = set(early)
            permutation = early + [identity for identity in permutation if identity not in taken]
        sequence.extend(permutation)
    return np.asarray(sequence[: batches * per_batch], dtype=np.int64)


def _deal(deck: npt.NDArray[np.int64], cards: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    hands = [rng.permutation(deck) for _ in range(-(-cards // len(deck)))]
    return np.concatenate(hands)[:cards]


class PKSampler(DistributedSampler[Any]):
    """Yield P×K batches as consecutive draws; use with ``batch_size=sampler.batch_size``.

    It is a ``DistributedSampler``, so Lightning leaves it in place under any strategy and calls ``set_epoch``; with R
    processes, rank r takes batches r, r + R, ... of one common epoch (:func:`draw_pk_epoch`).

    Args:
        labels: (N,) identity of each training row.
        identities_per_batch: P, per process.
        images_per_identity: K.
        seed: with the epoch, the seed of everything drawn; None takes the data module's.
    """

    def __init__(
        self,
        labels: Sequence[int],
        identities_per_batch: int = 16,
        images_per_identity: int = 4,
        seed: int | None = None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(
            range(len(labels)),  # type: ignore[arg-type]  # only its length is read
            num_replicas=torch.distributed.get_world_size() if distributed else 1,
            rank=torch.distributed.get_rank() if distributed else 0,
            seed=seed or 0,
        )
        self.has_own_seed = seed is not None
        self.labels = np.asarray(labels, dtype=np.int64)
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        self._batches = len(self._epoch_rows(0))

    @property
    def batch_size(self) -> int:
        """P × K."""
        return self.identities_per_batch * self.images_per_identity

    def __len__(self) -> int:
        """Draws of this process in an epoch."""
        return self._batches // self.num_replicas * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rows = self._epoch_rows(self.epoch)
        seeds = np.random.default_rng([self.seed, self.epoch, 1]).integers(2**62, size=rows.shape)
        mine = slice(self.rank, None, self.num_replicas)
        for row, seed in zip(rows[mine].ravel().tolist(), seeds[mine].ravel().tolist(), strict=True):
            yield Draw(row, seed)

    def _epoch_rows(self, epoch: int) -> npt.NDArray[np.int64]:
        return draw_pk_epoch(
            self.labels,
            self.identities_per_batch,
            self.images_per_identity,
            np.random.default_rng([self.seed, epoch, 0]),
            multiple_of=self.num_replicas,
        )


class ShuffledRows(DistributedSampler[Any]):
    """Yield every row once an epoch, in random order, each with a seed of its own.

    With R processes, rank r takes rows r, r + R, ... of one common order; what does not divide by ``multiple_of`` x R
    is left for another epoch, so that all processes take equally many whole batches.

    Args:
        count: rows.
        multiple_of: the batch size.
        seed: with the epoch, the seed of everything drawn.
    """

    def __init__(self, count: int, multiple_of: int, seed: int = 0) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(
            range(count),  # type: ignore[arg-type]  # only its length is read
            num_replicas=torch.distributed.get_world_size() if distributed else 1,
            rank=torch.distributed.get_rank() if distributed else 0,
            seed=seed,
        )
        self.count = count
        self.multiple_of = multiple_of

    def __len__(self) -> int:
        """Draws of this process in an epoch."""
        return self.count // (self.multiple_of * self.num_replicas) * self.multiple_of

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.count)[: len(self) * self.num_replicas]
        seeds = rng.integers(2**62, size=len(rows))
        mine = slice(self.rank, None, self.num_replicas)
        for row, seed in zip(rows[mine].tolist(), seeds[mine].tolist(), strict=True):
            yield Draw(row, seed)
