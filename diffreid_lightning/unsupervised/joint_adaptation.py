"""Adaptation to an unlabeled target while the labeled source is trained on as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffreid_lightning.datasets.training_rows import IDENTITIES, KEY, SOURCE, refuse_other_rows
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.losses import ClusterMemory, ReIDLoss
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.unsupervised.domain_norms import DomainNorms
from diffreid_lightning.unsupervised.module import START_ANEW, UnsupervisedReID


class JointAdaptation(UnsupervisedReID):
    """Train on clusters of the target and identities of the source, a batch of each in every step.

    As in SpCL (Ge et al., NeurIPS 2020, arXiv 2006.02713) the two domains share all weights but the batch-norm layers.
    The network that is evaluated and exported has the target's.

    Args:
        backbone: name of any timm model.
        source_losses: losses of the source's batches, over its identities; None means
            :class:`~diffreid_lightning.reid.losses.ClusterMemory`.
        domain_norms: give the source batch-norm layers of its own; false shares them, too.
        kwargs: see :class:`~diffreid_lightning.unsupervised.module.UnsupervisedReID`; the data need a ``source``.

    Raises:
        UserError: a loss needs a classifier.
    """

    takes_source = True
    _sized = False

    def __init__(
        self,
        backbone: str = "resnet50",
        source_losses: list[ReIDLoss] | None = None,
        domain_norms: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        losses = [ClusterMemory()] if source_losses is None else source_losses
        self._refuse_classifiers(losses)
        self.source_losses = LossList(losses, prefix="source_")
        self.source_backbone = DomainNorms(self.backbone) if domain_norms else None
        self.source_neck = DomainNorms(self.neck) if domain_norms else None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that training logs."""
        return (*super().metric_names, *(f"train/{name}" for name in self.source_losses.names))

    def setup(self, stage: str) -> None:
        """Load the initial weights, copy their batch-norm layers, and size the source's losses.

        Raises:
            UserError: the data have no source.
        """
        begins = not self._initialized
        super().setup(stage)
        if begins:
            self._copy_norms()
        if stage != "fit" or self._sized:
            return
        identities = self._data.num_identities
        if not identities:
            raise UserError(
                "JointAdaptation trains on a labeled source beside the target, and there is none.",
                looked_for="data.source",
                remedy="give one: --data.source PATH; or use --model UnsupervisedReID",
            )
        for loss in self.source_losses:
            loss.build(self.backbone.num_features, identities)
        self._sized = True

    def _copy_norms(self) -> None:
        """Start the source's batch-norm layers from those of the network, in their present number of features."""
        if self.source_backbone is not None:
            self.source_backbone, self.source_neck = DomainNorms(self.backbone), DomainNorms(self.neck)
            self._freeze_unread_neck()

    def _freeze_unread_neck(self) -> None:
        super()._freeze_unread_neck()
        read = self.source_losses.reads_embeddings
        if self.source_neck is None:
            self.neck.norm.weight.requires_grad_(read or self.losses.reads_embeddings)
        else:
            self.source_neck.norms["norm"].get_parameter("weight").requires_grad_(read)

    @property
    def domain_layers(self) -> dict[str, nn.Module]:
        """The source's layers of the backbone, by the names of those of its timm model that they stand in for."""
        norms = {} if self.source_backbone is None else dict(self.source_backbone.norms.items())
        return {key.replace("/", ".").removeprefix("model."): norm for key, norm in norms.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save a digest of the source's rows and their identities, too; see the base class."""
        super().on_save_checkpoint(checkpoint)
        if KEY in checkpoint:
            checkpoint[SOURCE] = self._data.source_rows
            checkpoint[IDENTITIES] = self._data.training_identities

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the network and the source's batch-norm layers the checkpoint's form; see the base class.

        Raises:
            UserError: the source's losses belong to other images or identities, or as there.
        """
        features = self.neck.norm.num_features
        super().on_load_checkpoint(checkpoint)
        if self.training_rows is not None:
            refuse_other_rows(checkpoint, self._data.source_rows, "source's losses", START_ANEW, SOURCE)
        if self.neck.norm.num_features != features:
            self._copy_norms()

    def count_images(self, batch: Any) -> int:
        """Return the number of images of both domains."""
        return len(batch["target"].labels) + len(batch["source"].labels)

    def compute_losses(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum the weighted losses of a batch of clusters and a batch of identities."""
        total, logged = super().compute_losses(batch["target"])
        source: PersonBatch = batch["source"]
        if self.source_backbone is None or self.source_neck is None:
            features = self.backbone(source.images)
            embeddings = self.neck(features)
        else:
            features = self.source_backbone.run(self.backbone, source.images)
            embeddings = self.source_neck.run(self.neck, features)
        self.source_losses.remember(embeddings, source.labels)
        of_source, values = self.weigh_losses(ReIDOutputs(features, embeddings), source.labels, self.source_losses)
        return total + of_source, {**logged, **values}
