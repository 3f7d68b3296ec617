"""Unsupervised Re-ID: pseudo-labels from clusters, renewed every epoch; contrastive training with a cluster memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from diffreid_lightning.datasets.training_rows import IMAGES, KEY, refuse_other_rows
from diffreid_lightning.errors import DiffReIDError, UserError
from diffreid_lightning.reid.base import ReIDModule
from diffreid_lightning.reid.losses import ReIDLoss
from diffreid_lightning.reid.losses.cluster_memory import ClusterMemory
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.training.trainer_parts import callbacks_of, require_datamodule
from diffreid_lightning.unsupervised.clusterers.base import Clusterer
from diffreid_lightning.unsupervised.clusterers.dbscan import DBSCAN
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule

#: where a checkpoint keeps the clusters of the training rows
LABELS = "pseudo_labels"
START_ANEW = "to train on other images, give --model.init_from RUN/backbone"


def cluster_means(embeddings: Tensor, labels: npt.NDArray[np.int64]) -> Tensor:
    """Average the unit embeddings of each cluster.

    Args:
        embeddings: (N, D).
        labels: (N,) cluster of each row, 0 to C - 1, or -1 for none.

    Returns:
        (C, D) means, not of unit length.
    """
    members = torch.from_numpy(np.flatnonzero(labels >= 0))
    clusters = torch.from_numpy(labels)[members]
    units = torch.nn.functional.normalize(embeddings[members].float())
    sums = units.new_zeros(int(clusters.max()) + 1, units.shape[1]).index_add_(0, clusters, units)
    return sums / torch.bincount(clusters)[:, None]


_AVERAGING = (WeightAveraging, StochasticWeightAveraging)


class UnsupervisedReID(ReIDModule):
    """Train a Re-ID network without identity labels (Cluster-Contrast, Dai et al., arXiv 2103.11568, by default).

    Before the first epoch and after each one, the training images are embedded as evaluation sees them and clustered;
    images of no cluster are left out of the next epoch. The losses compare clusters instead of identities, and each
    memory among them starts the epoch with the clusters' mean embeddings. Clusters and memory are part of the
    checkpoint.

    Its data module is :class:`~diffreid_lightning.unsupervised.datamodule.UnlabeledDataModule`. The other arguments
    are those of :class:`~diffreid_lightning.reid.base.ReIDModule`; losses that need a classifier are refused, since
    the number of clusters changes between epochs.

    Args:
        backbone: name of any timm model.
        clusterer: makes clusters of features; None means :class:`~.clusterers.dbscan.DBSCAN` over the k-reciprocal
            Jaccard distance.
        scheduler: makes the schedule; None keeps the rate.
        kwargs: see :class:`~diffreid_lightning.reid.base.ReIDModule`.

    Raises:
        UserError: a loss needs a classifier.
    """

    #: whether labeled images are trained on beside the clusters
    takes_source: ClassVar[bool] = False

    def __init__(
        self,
        backbone: str = "resnet50",
        clusterer: Clusterer | None = None,
        scheduler: LRSchedulerCallable | None = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 20),
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, scheduler=scheduler, **kwargs)
        self.clusterer = clusterer or DBSCAN()
        self.uses_cameras = self.clusterer.uses_cameras
        self.labels: npt.NDArray[np.int64] | None = None
        self._refuse_classifiers(self.losses)

    @staticmethod
    def _refuse_classifiers(losses: Iterable[ReIDLoss]) -> None:
        for loss in losses:
            if loss.needs_logits:
                raise UserError(
                    f"{type(loss).__name__} needs a classifier, and clusters change from epoch to epoch.",
                    looked_for="losses of the embeddings, such as ClusterMemory or BatchHardTriplet",
                    remedy="use ClusterMemory in its place",
                )

    @staticmethod
    def default_losses() -> list[ReIDLoss]:
        """Return the cluster memory."""
        return [ClusterMemory()]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that training logs."""
        return (*super().metric_names, "clusters/count", "clusters/outliers", "clusters/largest")

    @property
    def _data(self) -> UnlabeledDataModule:
        remedy = "use --data UnlabeledDataModule --data.target PATH"
        return require_datamodule(self.trainer, UnlabeledDataModule, type(self).__name__, remedy)

    # Clusters.

    def on_fit_start(self) -> None:
        """Find the first clusters, unless a checkpoint brought some.

        Raises:
            UserError: weights are averaged, whose copy cannot follow the number of clusters; the same batches are
                repeated, with images in no cluster; or the data have a labeled source that the class does not train on.
        """
        averaging = [type(each).__name__ for each in callbacks_of(self.trainer) if isinstance(each, _AVERAGING)]
        if averaging:
            raise UserError(
                f"{averaging[0]} cannot average a network whose clusters, and memory, change in every epoch.",
                remedy="leave it out of trainer.callbacks; --model MutualMeanTeaching evaluates a moving average",
            )
        if getattr(self.trainer, "overfit_batches", 0):
            raise UserError(
                "Batches of clusters cannot be repeated: trainer.overfit_batches draws images in no cluster, too.",
                remedy="leave it out; --trainer.limit_train_batches trains on fewer batches",
            )
        if self._data.source_set is not None and not self.takes_source:
            raise UserError(
                f"{type(self).__name__} does not train on a labeled source (data.source).",
                remedy="use --model JointAdaptation, or leave data.source out: to adapt from a source, start from a "
                "network that was trained on it, --model.init_from RUN/backbone",
            )
        rank_zero_info(f"target: {self._data.target_description}")
        if self.labels is None:
            self.find_clusters()
        else:
            self._data.use_labels(self.labels)

    def on_train_epoch_end(self) -> None:
        """Check that the network is finite, and find the next epoch's clusters, which the checkpoint then holds."""
        super().on_train_epoch_end()
        self.find_clusters()

    def on_train_epoch_start(self) -> None:
        """Log the clusters that the epoch trains on."""
        super().on_train_epoch_start()
        for name, value in self.cluster_sizes().items():
            self.log(f"clusters/{name}", value)

    def find_clusters(self) -> None:
        """Embed the training images, cluster them on rank zero, tell all processes, and refill loaders and memories.

        With fewer than two clusters the earlier ones stay.

        Raises:
            UserError: there are fewer than two clusters and no earlier ones.
        """
        begun = time.monotonic()
        compared, embeddings = self.extract_features()
        labels = self._cluster(compared)
        count = int(labels.max()) + 1 if len(labels) else 0
        if count < 2:
            labels = self._earlier_clusters(labels, count)
        self.labels = labels
        self._data.use_labels(labels)
        self.fill_memories(embeddings, labels)
        sizes = np.bincount(labels[labels >= 0])
        outliers = int((labels < 0).sum())
        cameras = "camera-aware" if self.uses_cameras else "no camera ids used"
        rank_zero_info(
            f"{len(labels):,} images: {len(sizes):,} clusters, the largest of {sizes.max():,}; {outliers:,} images in "
            f"none ({cameras}, {time.monotonic() - begun:.0f} s)"
        )

    def _cluster(self, features: Tensor) -> npt.NDArray[np.int64]:
        """Cluster on rank zero, and raise its error on every rank: the others would wait for ever."""
        found: npt.NDArray[np.int64] | DiffReIDError | None = None
        if self.trainer.is_global_zero:
            try:
                found = self.clusterer(features, self._data.camids)
            except DiffReIDError as error:
                found = error
        found = self.trainer.strategy.broadcast(found)
        if isinstance(found, DiffReIDError):
            raise found
        assert found is not None
        return found

    def cluster_sizes(self) -> dict[str, float]:
        """Return the number of clusters, the share of images in none, and the share in the largest, in percent."""
        assert self.labels is not None
        sizes = np.bincount(self.labels[self.labels >= 0])
        images = len(self.labels)
        return {
            "count": len(sizes),
            "outliers": 100 * float((self.labels < 0).sum()) / images,
            "largest": 100 * float(sizes.max()) / images,
        }

    def _earlier_clusters(self, labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
        """Return the last epoch's clusters, since the present ones are too few."""
        outliers = int((labels < 0).sum())
        if self.labels is None:
            raise UserError(
                f"The {len(labels):,} training images make {count} clusters: there is nothing to tell apart.",
                looked_for="two or more",
                found=f"{outliers:,} images in no cluster" + (f", {len(labels) - outliers:,} in one" if count else ""),
                remedy=f"{self.clusterer.advise(count)}; or start from a network that knows people: "
                "--model.init_from RUN/backbone",
            )
        rank_zero_warn(f"Clustering found {count} clusters ({outliers:,} outliers): the last epoch's are kept.")
        return self.labels

    def fill_memories(self, embeddings: Tensor, labels: npt.NDArray[np.int64]) -> None:
        """Start the memories with the clusters' mean embeddings.

        Args:
            embeddings: (N, D), of all training rows.
            labels: (N,) cluster of each row, -1 for none.
        """
        self.losses.fill(cluster_means(embeddings, labels).to(self.device))

    @torch.no_grad()
    def extract_features(self) -> tuple[Tensor, Tensor]:
        """Embed all training images as evaluation sees them; each process a part of them, all get all.

        All processes use rank zero's batch-norm statistics.

        Returns:
            What :meth:`embed_for_clusters` makes of all training rows, (N, D) float32 in order, on the CPU.

        Raises:
            UserError: a feature is not finite.
        """
        self.share_batch_statistics()
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        data = self._data
        was_training = self.training
        self.eval()
        compared, embeddings = [], []
        with self.trainer.precision_plugin.forward_context():
            for batch in data.seen_dataloader(rank, processes):
                images = self.trainer.strategy.batch_to_device(batch).images
                features, embedded = self.embed_for_clusters(images)
                embeddings.append(embedded.float())
                if features is not embedded:
                    compared.append(features.float())
        self.train(was_training)
        rows = len(data.train_set)
        of_all = self._interleave(torch.cat(embeddings), rows)
        compared_of_all = self._interleave(torch.cat(compared), rows) if compared else of_all
        if not torch.isfinite(compared_of_all).all():
            raise UserError("The network's features are not finite.", remedy="lower --model.optimizer.init_args.lr")
        return compared_of_all, of_all

    def embed_for_clusters(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what images are clustered by, and their embeddings, which the memories hold means of."""
        backbone, neck = self.network
        features = backbone(images)
        embeddings = neck(features)
        return (embeddings if self.feature == "after_bn" else features), embeddings

    def _interleave(self, part: Tensor, rows: int) -> Tensor:
        """Join the processes' parts, each of which holds every ``world_size``-th row, on the CPU."""
        processes = self.trainer.world_size
        if processes == 1:
            return part.cpu()
        padded = part.new_zeros(-(-rows // processes), part.shape[1])
        padded[: len(part)] = part
        gathered = torch.as_tensor(self.all_gather(padded))
        return gathered.transpose(0, 1).flatten(0, 1)[:rows].cpu()

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the clusters, a digest of the training rows, and which images they are."""
        if self.labels is not None and self.training_rows is not None:
            checkpoint[LABELS] = torch.from_numpy(self.labels)
            checkpoint[KEY] = self.training_rows
            checkpoint[IMAGES] = torch.from_numpy(self._data.training_images)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the checkpoint's clusters; see :meth:`ReIDModule.on_load_checkpoint`.

        Raises:
            UserError: the checkpoint is another module's, or was trained on other images.
        """
        super().on_load_checkpoint(checkpoint)
        refuse_other_rows(checkpoint, self.training_rows, "clusters", START_ANEW)
        saved = checkpoint.get(LABELS)
        if saved is not None:
            self.labels = saved.cpu().numpy()

    # Training.

    def compute_losses(self, batch: PersonBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum the weighted losses of a batch of clusters."""
        features = self.backbone(batch.images)
        embeddings = self.neck(features)
        clusters = self.clusters_of(batch)
        self.losses.remember(embeddings, clusters)
        return self.weigh_losses(ReIDOutputs(features, embeddings), clusters)

    def clusters_of(self, batch: PersonBatch) -> Tensor:
        """Return the clusters of a batch's images, (B,) int64 on their device."""
        assert self.labels is not None
        return torch.from_numpy(self.labels[batch.indices.cpu().numpy()]).to(batch.indices.device)
