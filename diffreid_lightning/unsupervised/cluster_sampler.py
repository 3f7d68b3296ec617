"""Batches of P clusters with K images each, a fixed number an epoch, over labels that change between epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from diffreid_lightning.datasets.samplers import Draw, ProcessSampler, draw_pk_batches
from diffreid_lightning.errors import check_range, check_seed


class ClusterSampler(ProcessSampler):
    """Yield a fixed number of P×K batches of clusters as consecutive draws; use with ``batch_size``.

    Images of no cluster (label -1) are left out. With fewer than P clusters, each is in a batch several times. With R
    processes, rank r takes batches r, r + R, ... of one common epoch of R times as many batches.

    Args:
        labels: (N,) cluster of each row, -1 for none; :attr:`labels` may be replaced between epochs.
        clusters_per_batch: P, per process.
        images_per_cluster: K.
        batches: batches of a process in an epoch.
        seed: with the epoch, the seed of everything drawn; None takes the data module's.
    """

    def __init__(
        self,
        labels: Sequence[int],
        clusters_per_batch: int = 16,
        images_per_cluster: int = 16,
        batches: int = 200,
        seed: int | None = None,
    ) -> None:
        check_range("sampler.clusters_per_batch", clusters_per_batch, 1, 1_000_000)
        check_range("sampler.images_per_cluster", images_per_cluster, 1, 4096)
        check_range("sampler.batches", batches, 1, 100_000_000)
        check_seed("sampler.seed", seed)
        super().__init__(len(labels), seed or 0)
        self.has_own_seed = seed is not None
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.clusters_per_batch = clusters_per_batch
        self.images_per_cluster = images_per_cluster
        self.batches = batches

    @property
    def batch_size(self) -> int:
        """P × K."""
        return self.clusters_per_batch * self.images_per_cluster

    def __len__(self) -> int:
        """Draws of this process in an epoch."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        members = np.flatnonzero(self.labels >= 0)
        batches = self.batches * self.num_replicas
        drawn = draw_pk_batches(
            self.labels[members],
            self.clusters_per_batch,
            self.images_per_cluster,
            batches,
            np.random.default_rng([self.seed, self.epoch, 0]),
        )
        rows = members[drawn]
        return self.draws(rows, np.random.default_rng([self.seed, self.epoch, 1]).integers(2**62, size=rows.shape))
