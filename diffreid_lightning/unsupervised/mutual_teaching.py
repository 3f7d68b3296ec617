"""Mutual mean teaching: two networks, each taught by the other's moving average (MMT, arXiv 2001.01526)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone, BNNeck, load_initial_weights
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.reid.batch_pairs import refuse_batches_without_pairs, samplers_of
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.losses import BatchHardTriplet, ClusterMemory, ReIDLoss
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.training.moving_average import update_average, warmed_decay
from diffreid_lightning.unsupervised.module import UnsupervisedReID, cluster_means
from diffreid_lightning.unsupervised.soft_losses import soft_cross_entropy, soft_triplet


class _Network(nn.Module):
    """A backbone with its neck."""

    def __init__(self, backbone: Backbone, neck: BNNeck) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck

    def forward(self, images: Tensor) -> ReIDOutputs:
        features = self.backbone(images)
        return ReIDOutputs(features, self.neck(features))


class MutualMeanTeaching(UnsupervisedReID):
    """Train two networks on the same clusters; each also learns the soft predictions of the other's moving average.

    Images are clustered by the mean of both averages' embeddings. Soft predictions are over each network's memory of
    clusters, where the paper has a classifier, which would have to be replaced whenever the clusters change. The second
    network sees each image mirrored, so that two networks that start alike differ. The first network's average is
    evaluated and exported.

    Args:
        backbone: name of any timm model, for both networks.
        partner_from: where the second network starts, as ``init_from``; None means where the first does.
        soft_memory: weight of the soft predictions over clusters, >= 0.
        soft_triplet: weight of the soft triplets, >= 0.
        decay: share of a moving average that a step keeps, 0 to 1; lower in the first steps.
        kwargs: see :class:`~diffreid_lightning.unsupervised.module.UnsupervisedReID`. The losses without ``losses`` are
            ClusterMemory with weight 0.5 and BatchHardTriplet with weight 0.2; one of them has to be a ClusterMemory.

    Raises:
        UserError: an argument is out of range, or there is no ClusterMemory.
    """

    start_only = (*UnsupervisedReID.start_only, "partner_from")

    def __init__(
        self,
        backbone: str = "resnet50",
        partner_from: str | None = None,
        soft_memory: float = 0.5,
        soft_triplet: float = 0.8,
        decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        check_range("model.soft_memory", soft_memory)
        check_range("model.soft_triplet", soft_triplet)
        check_range("model.decay", decay, 0, 1)
        if not any(isinstance(loss, ClusterMemory) for loss in self.losses):
            raise UserError("Mutual teaching compares predictions over a memory.", remedy="add ClusterMemory to losses")
        self.partner_from = partner_from
        self.soft_memory = soft_memory
        self.soft_triplet = soft_triplet
        self.decay = decay
        self.partner = _Network(copy.deepcopy(self.backbone), copy.deepcopy(self.neck))
        self.partner_losses = copy.deepcopy(self.losses)
        self.teacher = self._copy(self._student)
        self.partner_teacher = self._copy(self.partner)

    @staticmethod
    def default_losses() -> list[ReIDLoss]:
        """Return the memory and the triplet, with what the soft losses leave of their weight (the paper's 0.5, 0.8)."""
        return [ClusterMemory(weight=0.5), BatchHardTriplet(weight=0.2)]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that training logs."""
        return (*super().metric_names, "train/soft_memory", "train/soft_triplet")

    @property
    def network(self) -> tuple[Backbone, BNNeck]:
        """The first network's moving average, which is evaluated and exported."""
        return self.teacher.backbone, self.teacher.neck

    def setup(self, stage: str) -> None:
        """Load the initial weights of both networks, and start the averages from them."""
        begins = not self._initialized
        super().setup(stage)
        if not begins:
            return
        if self.partner_from is None:
            self.partner = copy.deepcopy(self._student)
        else:
            report = load_initial_weights(
                self.partner.backbone, self.partner_from, neck=self.partner.neck, allow_partial=self.allow_partial
            )
            rank_zero_info(f"second network: {report}")
        self.teacher = self._copy(self._student)
        self.partner_teacher = self._copy(self.partner)

    def on_fit_start(self) -> None:
        """Find the first clusters; see the base class.

        Raises:
            UserError: weights are in half precision, in which an average of many steps does not move.
        """
        if self.dtype in (torch.float16, torch.bfloat16):
            raise UserError(
                f"Moving averages are not kept in trainer.precision {self.trainer.precision}.",
                found="their small steps would be rounded to none",
                remedy="use --trainer.precision bf16-mixed or 16-mixed",
            )
        super().on_fit_start()

    def on_train_start(self) -> None:
        """Refuse batches without a pair for the soft triplets, too; see the base class."""
        refuse_batches_without_pairs(["soft_triplet"] if self.soft_triplet else [], samplers_of(self.trainer))
        super().on_train_start()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give all four networks the checkpoint's form; see the base class."""
        super().on_load_checkpoint(checkpoint)
        if _form(self.partner) != _form(self._student):
            self.partner = copy.deepcopy(self._student)
            self.teacher, self.partner_teacher = self._copy(self._student), self._copy(self.partner)

    @property
    def _student(self) -> _Network:
        """The first network, as the second one is held."""
        return _Network(self.backbone, self.neck)

    @staticmethod
    def _copy(network: _Network) -> _Network:
        return copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MutualMeanTeaching:
        """Set the networks to training; the averages predict with their averaged statistics throughout."""
        super().train(mode)
        self.teacher.eval()
        self.partner_teacher.eval()
        return self

    # Clusters.

    def embed_for_clusters(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of both averages' unit vectors, (B, D), and the embeddings of both side by side, (B, 2D)."""
        first, second = self.teacher(images), self.partner_teacher(images)
        place = 1 if self.feature == "after_bn" else 0
        compared = (F.normalize(first[place].float()) + F.normalize(second[place].float())) / 2
        return compared, torch.cat([first.embeddings, second.embeddings], dim=1)

    def fill_memories(self, embeddings: Tensor, labels: npt.NDArray[np.int64]) -> None:
        """Start each network's memories with the clusters' means of its own average's embeddings."""
        for half, losses in zip(embeddings.chunk(2, dim=1), (self.losses, self.partner_losses), strict=True):
            losses.fill(cluster_means(half, labels).to(self.device))

    # Training.

    def compute_losses(self, batch: PersonBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum both networks' losses over the clusters and against each other's average; log the first's hard ones."""
        clusters, mirrored = self.clusters_of(batch), batch.images.flip(-1)
        first, second = self._student(batch.images), self.partner(mirrored)
        with torch.no_grad():
            teachings = self.teacher(batch.images), self.partner_teacher(mirrored)
        self.losses.remember(first.embeddings, clusters)
        self.partner_losses.remember(second.embeddings, clusters)
        total, logged = self.weigh_losses(first, clusters)
        of_second, _ = self.weigh_losses(second, clusters, self.partner_losses)
        pairs = (
            (first, self.losses, teachings[1], self.partner_losses),
            (second, self.partner_losses, teachings[0], self.losses),
        )
        soft_memories, soft_triplets = [], []
        for student, own, taught, others in pairs:
            soft_memories.append(soft_cross_entropy(predict(student, own), predict(taught, others)))
            soft_triplets.append(soft_triplet(student.features, taught.features, clusters))
        memory, triplet = torch.stack(soft_memories).sum(), torch.stack(soft_triplets).sum()
        total = total + of_second + self.soft_memory * memory + self.soft_triplet * triplet
        return total, {**logged, "soft_memory": memory / 2, "soft_triplet": triplet / 2}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update memories and moving averages after each optimizer step."""
        step = self.trainer.global_step
        if step != self._steps_seen:
            decay = warmed_decay(step - 1, self.decay)
            update_average(self.teacher, self._student, decay)
            update_average(self.partner_teacher, self.partner, decay)
        super().on_train_batch_end(outputs, batch, batch_idx)


def _form(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def predict(outputs: ReIDOutputs, losses: LossList) -> Tensor:
    """Return the scores of the clusters by the first memory among the losses, (B, C)."""
    memory = next(loss for loss in losses if isinstance(loss, ClusterMemory))
    return memory.logits(outputs.embeddings)
