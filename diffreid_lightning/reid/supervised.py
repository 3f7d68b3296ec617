"""Supervised Re-ID: backbone, BNNeck, identity classifier and metric losses.

Pre-training on Diff-Person (``configs/stages/pretrain.yaml``) and fine-tuning (``transfer.yaml``) are this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffreid_lightning.backbones import CosineClassifier, IdentityClassifier
from diffreid_lightning.datasets.training_rows import IDENTITIES, KEY, refuse_other_rows
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.base import ReIDModule
from diffreid_lightning.reid.losses import BatchHardTriplet, LabelSmoothedCrossEntropy, ReIDLoss
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.training.trainer_parts import datamodule_of

_START_ANEW = "to fine-tune on new data, start from the run's backbone folder: --model.init_from RUN/backbone"


class SupervisedReID(ReIDModule):
    """Train a Re-ID network with identity labels (Bag of Tricks, Luo et al., arXiv 1903.07071, by default).

    Without losses of its own it takes label-smoothed cross-entropy and batch-hard triplet. A classifier is built where
    a loss asks for logits, one of cosines where it asks for these.

    Args:
        args: those of :class:`~diffreid_lightning.reid.base.ReIDModule`.
        kwargs: those of :class:`~diffreid_lightning.reid.base.ReIDModule`.

    Raises:
        UserError: one of the losses needs cosines and another one does not, or as there.
    """

    _sized = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kinds = {loss.needs_cosines: type(loss).__name__ for loss in self.losses if loss.needs_logits}
        if len(kinds) == 2:
            raise UserError(
                f"{kinds[True]} and {kinds[False]} cannot share a classifier.",
                looked_for="losses of the logits that are all of one kind",
                found=f"{kinds[True]} needs cosines, {kinds[False]} inner products",
                remedy="take one of the two out of model.losses",
            )
        self.classifier_class = CosineClassifier if kinds.get(True) else IdentityClassifier

    @staticmethod
    def default_losses() -> list[ReIDLoss]:
        """Return label-smoothed cross-entropy and batch-hard triplet."""
        return [LabelSmoothedCrossEntropy(), BatchHardTriplet()]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that training logs."""
        return (*super().metric_names, "train/accuracy") if self._classifies else super().metric_names

    @property
    def _classifies(self) -> bool:
        return any(loss.needs_logits for loss in self.losses)

    def setup(self, stage: str) -> None:
        """Load the initial weights, and size classifier and losses for the identities.

        Raises:
            UserError: the data do not count their identities.
        """
        super().setup(stage)
        if stage != "fit" or self._sized:
            return
        num_features, num_identities = self.backbone.num_features, self._num_identities()
        if self._classifies:
            self.classifier = self.classifier_class(num_features, num_identities)
        for loss in self.losses:
            loss.build(num_features, num_identities)
        self._sized = True

    def _num_identities(self) -> int:
        count = getattr(datamodule_of(self.trainer), "num_identities", None)
        if count is None:
            raise UserError("The data do not say how many identities they hold.", remedy="use --data ReIDDataModule")
        return int(count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the network the checkpoint's form, classifier included; see :meth:`ReIDModule.on_load_checkpoint`.

        Raises:
            UserError: the checkpoint was made with other features or identities, or is another module's.
        """
        super().on_load_checkpoint(checkpoint)
        weight = checkpoint["state_dict"].get("classifier.weight")
        if weight is not None and self.classifier is not None and self.classifier.out_features != len(weight):
            raise UserError(
                "The checkpoint belongs to other training data.",
                looked_for=f"a classifier for {self.classifier.out_features} identities, as the data have",
                found=f"one for {len(weight)}",
                remedy=_START_ANEW,
            )
        refuse_other_rows(checkpoint, self.training_rows, "classifier", _START_ANEW)
        num_features = self.neck.norm.num_features
        if weight is not None and (self.classifier is None or self.classifier.in_features != num_features):
            self.classifier = self.classifier_class(num_features, len(weight)).to(self.device)
            self._sized = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save a digest of the training rows and their identities."""
        rows = self.training_rows
        if rows is not None:
            checkpoint[KEY] = rows
            checkpoint[IDENTITIES] = datamodule_of(self.trainer).training_identities

    def compute_losses(self, batch: PersonBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum the weighted losses of a P×K batch."""
        features = self.backbone(batch.images)
        embeddings = self.neck(features)
        outputs = ReIDOutputs(features, embeddings, weights=batch.weights)
        if self.classifier is not None:
            parts = self.backbone.parts
            part_logits = self.classifier.score_parts(embeddings, parts) if len(parts) > 1 else ()
            outputs = outputs._replace(logits=self.classifier(embeddings), part_logits=part_logits)
        self.losses.remember(embeddings, batch.labels, batch.weights)
        total, logged = self.weigh_losses(outputs, batch.labels)
        if outputs.logits is not None:
            logged["accuracy"] = (outputs.logits.argmax(dim=1) == batch.labels).float().mean()
        return total, logged
