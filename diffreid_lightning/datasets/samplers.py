"""Samplers: P×K batches (P identities, K images of each), or every row once an epoch.

Every draw carries its own augmentation seed, so batches do not depend on the number of loader workers, and a run that
resumes at an epoch boundary sees the same data as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch.distributed
from torch.utils.data import DistributedSampler

from diffreid_lightning.errors import UserError, check_range, check_seed


class Draw(NamedTuple):
    """One image of a training batch: its row, and the seed of its augmentation."""

    row: int
    seed: int


def _deal_two_kinds(
    labels: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    images: int,
    rng: np.random.Generator,
    generated: npt.NDArray[np.bool_],
    share: float,
    cameras: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.int64]:
    """Deal the visits of an epoch, (batches, P) identities, from decks of real and of generated images."""
    decks = [(deck[~generated[deck]], deck[generated[deck]]) for deck in _group_rows(labels)]
    has_real, has_generated = (np.asarray([len(pair[kind]) > 0 for pair in decks])[order] for kind in (0, 1))
    counts = _count_generated(has_real, has_generated, images, share, rng).ravel()
    chosen = np.empty((order.size, images), dtype=np.int64)
    for identity, own in zip(np.unique(order).tolist(), _group_rows(order.ravel()), strict=True):
        real, made = decks[identity]
        is_made = np.arange(images) < counts[own, None]
        hand = np.empty(is_made.shape, dtype=np.int64)
        hand[is_made] = _deal(made, int(is_made.sum()), rng, cameras)
        hand[~is_made] = _deal(real, int((~is_made).sum()), rng, cameras)
        chosen[own] = hand
    return chosen.reshape(len(order), -1)


def draw_pk_batches(
    labels: npt.NDArray[np.int64],
    identities: int,
    images: int,
    batches: int,
    rng: np.random.Generator,
    *,
    weights: npt.NDArray[np.int64] | None = None,
    cameras: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Draw a number of P×K batches: rounds over all identities, each in a new random order.

    Args:
        labels: (N,) identity of each row, 0 to C - 1, each at least once.
        identities: P, identities in a batch; if there are fewer, some occur in it more than once.
        images: K, images of each, from a shuffled deck that is reshuffled when it runs out.
        batches: number of batches.
        rng: source of all randomness.
        weights: (C,) how often each identity is drawn, relative to the others, without rounds; None for rounds.
        cameras: (N,) camera of each row, to deal images of different cameras; None for any.

    Returns:
        (batches, P * K) row indices.
    """
    decks = _group_rows(labels)
    order = _draw_visits(len(decks), identities, batches, rng, weights)
    chosen = np.empty((len(order), images), dtype=np.int64)
    for identity, own in zip(np.unique(order).tolist(), _group_rows(order), strict=True):
        chosen[own] = _deal(decks[identity], len(own) * images, rng, cameras).reshape(len(own), images)
    return chosen.reshape(batches, identities * images)


def _count_batches(
    labels: npt.NDArray[np.int64], identities: int, images: int, processes: int, given: int | None
) -> int:
    """Return the number of batches of all processes in an epoch; raise UserError if they cannot be drawn."""
    count = len(np.unique(labels))
    if count < identities:
        raise UserError(
            f"A batch needs {identities} different identities; the training set has {count}.",
            found=f"{count} identities, without those held out for validation (data.val_share)",
            remedy=f"set --data.sampler.init_args.identities_per_batch to {count} or fewer, hold out fewer, or "
            "give more data",
        )
    rounds = max(1, round(len(labels) / count / images))
    batches = -(-rounds * count // identities) if given is None else given * processes
    return batches + -batches % processes


def _refuse_missing_kind(generated: npt.NDArray[np.bool_], share: float) -> None:
    kind = "generated" if share > 0 and not generated.any() else "real" if share < 1 and generated.all() else None
    if kind is not None:
        raise UserError(
            f"Batches with {100 * share:g} % generated images were requested, but the training set has no {kind} ones.",
            found=f"{len(generated)} images, {int(generated.sum())} of them generated",
            remedy="give both in --data.train '[REAL,GENERATED]', or omit the sampler's generated_share",
        )


def _count_generated(
    has_real: npt.NDArray[np.bool_],
    has_generated: npt.NDArray[np.bool_],
    images: int,
    share: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Return the number of generated images in each visit, (batches, P)."""
    batches, identities = has_real.shape
    counts = np.where(has_real, 0, images)
    free = has_real & has_generated
    wanted = np.diff(np.rint(np.arange(batches + 1) * share * identities * images)).astype(np.int64)
    left = np.clip(wanted - counts.sum(axis=1), 0, free.sum(axis=1) * images)
    each, over = np.divmod(left, np.maximum(free.sum(axis=1), 1))
    places = np.where(free, rng.random(free.shape), np.inf).argsort(axis=1).argsort(axis=1)
    return counts + np.where(free, each[:, None] + (places < over[:, None]), 0)


def _group_rows(labels: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(labels, kind="stable")
    boundaries = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, boundaries) if len(labels) else []


def _draw_visits(
    count: int, per_batch: int, batches: int, rng: np.random.Generator, weights: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64]:
    """Concatenate random permutations of ``count`` identities so that no batch holds one of them twice.

    With weights, draw each batch by itself.
    """
    if weights is not None:
        chances = weights / weights.sum()
        drawn = [rng.choice(count, per_batch, replace=False, p=chances) for _ in range(batches)]
        return np.concatenate(drawn).astype(np.int64)
    sequence: list[int] = []
    while len(sequence) < batches * per_batch:
        permutation = rng.permutation(count).tolist()
        begun = len(sequence) % per_batch
        if begun:  # identities already in the incomplete batch move behind it
            present = set(sequence[-begun:])
            room = per_batch - begun
            early = [identity for identity in permutation if identity not in present][:room]
            taken = set(early)
            permutation = early + [identity for identity in permutation if identity not in taken]
        sequence.extend(permutation)
    return np.asarray(sequence[: batches * per_batch], dtype=np.int64)


def _deal(
    deck: npt.NDArray[np.int64], cards: int, rng: np.random.Generator, cameras: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64]:
    if not cards:
        return deck[:0]
    hands = [rng.permutation(deck) for _ in range(-(-cards // len(deck)))]
    if cameras is not None:
        hands = [alternate_cameras(hand, cameras) for hand in hands]
    return np.concatenate(hands)[:cards]


def alternate_cameras(rows: npt.NDArray[np.int64], cameras: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Order rows in rounds over their cameras: the first of each camera, then the second of each, and so on.

    Args:
        rows: (n,) at least one; within a round, cameras have the order in which they appear here.
        cameras: (N,) camera of every row that there is.
    """
    own = cameras[rows]
    _, first_places, sizes = np.unique(own, return_index=True, return_counts=True)
    by_camera = np.argsort(own, kind="stable")
    rounds = np.concatenate([np.arange(size) for size in sizes])
    return rows[by_camera[np.lexsort((np.repeat(first_places, sizes), rounds))]]


class ProcessSampler(DistributedSampler[Any]):
    """Base of samplers that know their process; Lightning keeps a ``DistributedSampler`` under any strategy."""

    def __init__(self, rows: int, seed: int) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(
            range(rows),  # type: ignore[arg-type]  # only its length is read
            num_replicas=torch.distributed.get_world_size() if distributed else 1,
            rank=torch.distributed.get_rank() if distributed else 0,
            seed=seed,
        )

    def draws(self, rows: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Iterator[Draw]:
        """Yield this process's share of the rows (or rows of rows) of all processes."""
        mine = slice(self.rank, None, self.num_replicas)
        return map(Draw, rows[mine].ravel().tolist(), seeds[mine].ravel().tolist())


class PKSampler(ProcessSampler):
    """Yield P×K batches as consecutive draws; use with ``batch_size=sampler.batch_size``.

    With R processes, rank r takes batches r, r + R, ... of one common epoch. Unless ``batches`` is given, it has
    ``max(1, round(mean images per identity / K))`` rounds. A round visits every identity once, in random order; a visit
    takes K images from the identity's shuffled deck, which is reshuffled when it runs out (an identity with fewer than
    K images repeats them). The visits are cut into batches of P distinct identities; to fill the last batches,
    identities are visited once more, so none appears twice in a batch.

    With a ``generated_share``, each identity has a deck of real and one of generated images, and a batch takes that
    share of its images from the latter, spread evenly over its identities. Identities with one kind only use that kind,
    and the others compensate as far as possible. Fractions average out over the epoch.

    Args:
        labels: (N,) identity of each training row.
        identities_per_batch: P, per process.
        images_per_identity: K.
        seed: combined with the epoch, the seed of every draw; None takes the data module's.
        generated_share: share of generated images in every batch, 0 to 1; None draws from all images alike.
        batches: batches of a process in an epoch, so that training sets of different sizes are trained on for equally
            many steps; None: as many as give every identity as many images as the mean identity has.
        by_images: draw each identity as often as it has images, in place of all alike: after filtering, the identities
            that kept more images.
        across_cameras: take an identity's images of a batch from different cameras, as far as it has several.

    Attributes:
        generated: (N,) mask of the generated rows; set by the data module.
        cameras: (N,) camera of each row; set by the data module.

    Raises:
        UserError: fewer than P identities, an argument out of range, or, when drawn, a share of what does not exist.
    """

    generated: npt.NDArray[np.bool_] | None = None
    cameras: npt.NDArray[np.int64] | None = None

    def __init__(
        self,
        labels: Sequence[int],
        identities_per_batch: int = 16,
        images_per_identity: int = 4,
        seed: int | None = None,
        generated_share: float | None = None,
        batches: int | None = None,
        by_images: bool = False,
        across_cameras: bool = False,
    ) -> None:
        check_range("sampler.batches", batches, 1, 100_000_000)
        check_range("sampler.images_per_identity", images_per_identity, 1, 4096)
        check_range("sampler.identities_per_batch", identities_per_batch, 1, 1_000_000)
        check_seed("sampler.seed", seed)
        check_range("sampler.generated_share", generated_share, 0, 1)
        super().__init__(len(labels), seed or 0)
        self.has_own_seed = seed is not None
        self.labels = np.asarray(labels, dtype=np.int64)
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        self.generated_share = generated_share
        self.by_images = by_images
        self.across_cameras = across_cameras
        self._batches = _count_batches(
            self.labels, identities_per_batch, images_per_identity, self.num_replicas, batches
        )

    @property
    def batch_size(self) -> int:
        """Return P × K."""
        return self.identities_per_batch * self.images_per_identity

    def __len__(self) -> int:
        """Return the number of draws of this process in an epoch."""
        return self._batches // self.num_replicas * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rows = self._epoch_rows(np.random.default_rng([self.seed, self.epoch, 0]))
        return self.draws(rows, np.random.default_rng([self.seed, self.epoch, 1]).integers(2**62, size=rows.shape))

    def _epoch_rows(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw the rows of all processes, (batches, P * K)."""
        people, images, share = self.identities_per_batch, self.images_per_identity, self.generated_share
        counts = np.unique(self.labels, return_counts=True)[1]
        weights = counts if self.by_images else None
        cameras = self.cameras if self.across_cameras else None
        if share is None:
            return draw_pk_batches(self.labels, people, images, self._batches, rng, weights=weights, cameras=cameras)
        if self.generated is None:
            raise ValueError("a share of generated images requires the mask of generated rows")
        _refuse_missing_kind(self.generated, share)
        order = _draw_visits(len(counts), people, self._batches, rng, weights).reshape(-1, people)
        return _deal_two_kinds(self.labels, order, images, rng, self.generated, share, cameras)


class ShuffledRows(ProcessSampler):
    """Yield every row once an epoch, in random order, each with its own seed.

    With R processes, rank r takes rows r, r + R, ... of one common order; the remainder of ``multiple_of`` x R is
    dropped, so that all processes take the same number of whole batches.

    Args:
        rows: number of rows; or their labels, which do not matter.
        multiple_of: the batch size.
        seed: combined with the epoch, the seed of every draw; None leaves it to the data module.

    Raises:
        UserError: there are fewer rows than one batch per process.
    """

    def __init__(self, rows: int | Sequence[int], multiple_of: int = 64, seed: int | None = None) -> None:
        check_range("sampler.multiple_of", multiple_of, 1, 1_000_000)
        check_seed("sampler.seed", seed)
        count = rows if isinstance(rows, int) else len(rows)
        super().__init__(count, seed or 0)
        self.has_own_seed = seed is not None
        self.count = count
        self.multiple_of = multiple_of
        if not len(self):
            raise UserError(
                f"There are too few images for one batch of {multiple_of} per process.",
                found=f"{count} images, {self.num_replicas} processes",
                remedy="lower the batch size: --data.batch_size, or --data.sampler.multiple_of",
            )

    @property
    def batch_size(self) -> int:
        """Return the number of draws in a batch."""
        return self.multiple_of

    def __len__(self) -> int:
        """Return the number of draws of this process in an epoch."""
        return self.count // (self.multiple_of * self.num_replicas) * self.multiple_of

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.count)[: len(self) * self.num_replicas]
        return self.draws(rows, rng.integers(2**62, size=len(rows)))
