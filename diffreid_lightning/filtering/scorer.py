"""Re-ID scorer: train it on the real identities, and score generated images with it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone, BNNeck, IdentityClassifier
from diffreid_lightning.datasets.stage_datamodule import StageRows
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.filtering import copy_search
from diffreid_lightning.filtering.calibration import Calibration, Fitted, FoldNetworks, calibrate
from diffreid_lightning.filtering.datamodule import ScoringBatch
from diffreid_lightning.filtering.scored_manifest import NEAREST, NEAREST_SOURCE, PROBLEM, REAL_DISTANCE
from diffreid_lightning.filtering.scorer_checkpoint import Recognizer, load_scorer
from diffreid_lightning.filtering.scores import assign_folds, identity_centroids
from diffreid_lightning.manifest.provenance import find_manifest_hashes
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.reid.supervised import SupervisedReID
from diffreid_lightning.training.trainer_parts import datamodule_of

#: predicted columns that the writer stores outside the manifest
THUMBNAIL, FEATURE = "thumbnail", "feature"


class FoldNetwork(nn.Module):
    """Network that is trained without one fold of the images.

    Args:
        backbone: the initial backbone, which is copied.
        neck: the initial neck, which is copied.
        num_identities: classes.
        losses: of the scorer, which are copied: a memory or centers of theirs have seen every fold.
    """

    def __init__(self, backbone: Backbone, neck: BNNeck, num_identities: int, losses: LossList) -> None:
        super().__init__()
        self.losses = copy.deepcopy(losses)
        self.backbone = copy.deepcopy(backbone)
        self.neck = copy.deepcopy(neck)
        self.classifier = IdentityClassifier(self.backbone.num_features, num_identities)

    def forward(self, images: Tensor) -> ReIDOutputs:
        """Return features, embeddings and logits of images (B, 3, H, W) in 0..1."""
        features = self.backbone(images)
        embeddings = self.neck(features)
        parts = self.backbone.parts
        part_logits = self.classifier.score_parts(embeddings, parts) if len(parts) > 1 else ()
        return ReIDOutputs(features, embeddings, self.classifier(embeddings), part_logits=part_logits)


class ScorerTraining(SupervisedReID):
    """Train a supervised Re-ID network with calibrated confidence on the real identities.

    With fold networks (:class:`~.calibration.FoldNetworks`) these are trained beside the scorer, on the batch without
    their fold, by the same losses, optimizer and schedule.

    Args:
        backbone: name of any timm model.
        calibration: method that fits the temperature; None means :class:`~.calibration.FoldNetworks` with three folds.
        kwargs: see :class:`~diffreid_lightning.reid.base.ReIDModule`; centroids use ``feature``, and ``flip_average``
            averages the scores as well.

    Raises:
        UserError: none of the losses trains the classifier, whose probabilities are the confidence, or one does it by
            cosines and a margin.
    """

    start_only = (*SupervisedReID.start_only, "calibration")

    def __init__(self, backbone: str = "resnet50", calibration: Calibration | None = None, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        if not self._classifies:
            raise UserError(
                "None of the scorer's losses trains a classifier, whose probabilities are the confidence.",
                looked_for="a loss of the logits among model.losses",
                found=", ".join(type(loss).__name__ for loss in self.losses),
                remedy="add LabelSmoothedCrossEntropy",
            )
        if self.classifier_class is not IdentityClassifier:
            raise UserError(
                "The scorer's classifier cannot be one of cosines.",
                looked_for="a loss whose softmax is the confidence",
                found=", ".join(type(loss).__name__ for loss in self.losses),
                remedy="use LabelSmoothedCrossEntropy in place of a loss with a margin",
            )
        self.calibration = calibration or FoldNetworks()
        self.fold_networks = nn.ModuleList()
        self._folds = torch.empty(0, dtype=torch.int64)

    def setup(self, stage: str) -> None:
        """Assign the training images to folds, and create the calibration's fold networks."""
        super().setup(stage)
        if stage != "fit":
            return
        labels = datamodule_of(self.trainer).train_set.rows.labels
        if self._num_identities() < 2:
            raise UserError(
                "A scorer needs at least two identities to tell apart.",
                found=f"{self._num_identities()} in the training set",
                remedy="give more data: --data.train",
            )
        self._folds = torch.from_numpy(assign_folds(labels, self.calibration.folds, self.calibration.seed))
        if not self.fold_networks:
            self._add_fold_networks(self.calibration.networks, self._num_identities())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the fold networks of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        prefix = "fold_networks."
        numbers = {name.split(".")[1] for name in checkpoint["state_dict"] if name.startswith(prefix)}
        if not self.fold_networks and self.classifier is not None:
            self._add_fold_networks(len(numbers), self.classifier.out_features)
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("losses.")]:  # once they were not the networks' own
            for number in numbers:
                state.setdefault(f"{prefix}{number}.{name}", state[name].clone())
        if len(numbers) != len(self.fold_networks):
            raise UserError(
                "The checkpoint was calibrated in another way.",
                looked_for=f"{len(self.fold_networks)} fold networks, as model.calibration asks for",
                found=str(len(numbers)),
                remedy="give --model.calibration as the run was started (its config.yaml)",
            )

    def _add_fold_networks(self, count: int, num_identities: int) -> None:
        networks = [FoldNetwork(self.backbone, self.neck, num_identities, self.losses) for _ in range(count)]
        self.fold_networks.extend(network.to(self.device) for network in networks)

    def training_step(self, batch: PersonBatch, batch_idx: int) -> Tensor:
        """Add the losses of the fold networks, each on the batch without its fold."""
        total = super().training_step(batch, batch_idx)
        folds = self._folds.to(batch.indices.device)[batch.indices]
        for fold, network in enumerate(cast(Iterable[FoldNetwork], self.fold_networks)):
            seen = folds != fold
            embeddings = batch.images.new_zeros(len(seen), self.neck.norm.num_features, dtype=torch.float32)
            if int(seen.sum()) < 2:  # batch norm needs two; DDP needs a gradient of every parameter
                loss = torch.stack([parameter.sum() for parameter in network.parameters()]).sum() * 0
            else:
                weights = None if batch.weights is None else batch.weights[seen]
                outputs = network(batch.images[seen])._replace(weights=weights)
                embeddings[seen] = outputs.embeddings.detach().float()
                loss, _ = self.weigh_losses(outputs, batch.labels[seen], network.losses)
            # All rows: processes hand over equally many. Those without a label are not remembered.
            network.losses.remember(embeddings, torch.where(seen, batch.labels, -1), batch.weights)
            self._loss_sum.add(loss)
            total = total + loss
        return total

    @torch.no_grad()
    def build_recognizer(self, batches: Any) -> tuple[Recognizer, Fitted, Tensor]:
        """Build the recognizer from the trained network: centroids and temperatures.

        Args:
            batches: batches of the training images, in the set's order, with the evaluation transform, on any device.

        Returns:
            The recognizer, the fit of its temperatures, and (N, 1536) thumbnails of the images.

        Raises:
            UserError: features are not finite.
        """
        assert self.classifier is not None
        empty = torch.empty(self.classifier.out_features, device=self.device)
        weight = self.classifier.weight.detach().float()
        recognizer = Recognizer(
            self.backbone, self.neck, weight, weight, empty, self.feature == "after_bn", self.flip_average
        )
        was_training = self.training
        self.eval()
        features, embeddings, labels, fold_logits, thumbs = [], [], [], [], []
        for batch in batches:
            images = batch.images.to(self.device)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            compared, classified = recognizer.embed(images)
            features.append(compared.float())
            embeddings.append(classified.float())
            labels.append(batch.labels.to(self.device))
            thumbs.append(copy_search.thumbnails(images).cpu())
            if self.fold_networks:
                fold_logits.append(self._by_fold_networks(images, self._folds[batch.indices.cpu()]))
        self.train(was_training)
        everyone, known = torch.cat(embeddings), torch.cat(labels)
        if not torch.isfinite(everyone).all():
            raise UserError("The scorer's features are not finite.", remedy="lower --model.optimizer.lr, train again")
        folds = self._folds.to(self.device)
        by_networks = torch.cat(fold_logits) if fold_logits else everyone.new_empty(0, len(weight))
        del fold_logits  # as large as the whole that was made of them
        held_out = self.calibration.held_out_logits(everyone, known, folds, by_networks)
        fitted = calibrate(held_out, known, folds, len(weight))
        recognizer.classifier = self.calibration.head(everyone, known, weight)
        recognizer.centroids = identity_centroids(torch.cat(features), known, len(weight))
        recognizer.temperatures = fitted.temperatures.to(self.device)
        return recognizer, fitted, torch.cat(thumbs)

    def _by_fold_networks(self, images: Tensor, folds: Tensor) -> Tensor:
        """Return logits of each image by the network trained without it; zeros for images of no fold."""
        assert self.classifier is not None
        logits = images.new_zeros(len(images), self.classifier.out_features)
        for fold, network in enumerate(self.fold_networks):
            rows = (folds == fold).nonzero().flatten().to(images.device)
            if len(rows):
                views = [images[rows], images[rows].flip(-1)] if self.flip_average else [images[rows]]
                logits[rows] = torch.stack([network(view).logits.float() for view in views]).mean(dim=0)
        return logits


class ReIDScorer(LightningModule):
    """Score the images of a manifest with a trained scorer, by ``predict``.

    A row gets ``confidence``, ``similarity`` and ``margin``, or the reason why not (an unreadable image, an identity
    that the scorer does not know); and its nearest real image by :mod:`~diffreid_lightning.filtering.copy_search`. The
    writer adds the consistency, which needs all images.

    Args:
        scorer: output folder of a :class:`ScorerTraining` run (``RUN/scorer``).
        image_size: height and width in pixels of the images; on the command line it is set as ``data.image_size``.

    Raises:
        UserError: the folder is missing or damaged, or was trained at another image size.
    """

    def __init__(self, scorer: str, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.folder = load_scorer(scorer)
        self.network = self.folder.recognizer
        if image_size is not None and tuple(image_size) != self.folder.image_size:
            height, width = self.folder.image_size
            raise UserError(
                f"The scorer at {scorer} was trained on images of another size.",
                looked_for=f"{height} x {width}",
                found=f"{image_size[0]} x {image_size[1]} (data.image_size)",
                remedy=f"give --data.image_size '[{height},{width}]'",
            )
        self._numbers = {key: number for number, key in enumerate(self.folder.identities)}
        self._real: copy_search.Thumbnails | None = None
        self._real_names = self.folder.real.table["file_name"].combine_chunks()
        self._real_sources = self.folder.real.table["source"].combine_chunks()

    @property
    def cache_key(self) -> dict[str, Any]:
        """Settings that determine the scores, besides the images."""
        return {"scorer": self.folder.content_hash, "consistency": True}  # results without it are scored again

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Content hashes of the manifests that the scorer was trained on."""
        return tuple(find_manifest_hashes(self.folder.note.get("training")))

    @property
    def calibration_text(self) -> str:
        """Description of the calibration, one line."""
        return format_calibration(self.folder.note["calibration"])

    def predict_step(self, batch: ScoringBatch, batch_idx: int) -> StageRows:
        """Score one batch of the plan."""
        problems = list(batch.problems)
        keys = [(source, partition, pid) for source, partition, pid in batch.identities]  # lists after the transfer
        for row, key in enumerate(keys):
            if problems[row] is None and key not in self._numbers:
                problems[row] = "the scorer does not know this identity"
        numbers = [self._numbers.get(key, 0) for key in keys]
        features, embeddings = self.network.embed(batch.images)
        scores = self.network.score(features, embeddings, torch.tensor(numbers, device=batch.images.device))
        columns = {name: values.double().cpu().numpy() for name, values in scores._asdict().items()}
        broken = ~np.isfinite(np.stack(list(columns.values()))).all(axis=0)
        for row in np.flatnonzero(broken).tolist():
            problems[row] = problems[row] or "the scores are not finite"
        missing = np.asarray([problem is not None for problem in problems])
        unreadable = np.asarray([problem is not None for problem in batch.problems])
        thumbs = copy_search.thumbnails(batch.images)
        directions = nn.functional.normalize(features.float(), dim=1)
        if self._real is None or self._real.bytes.device != thumbs.device:
            self._real = copy_search.precompute(self.folder.real.thumbnails.to(thumbs.device))
        distances, rows = (values.cpu().numpy() for values in copy_search.nearest(thumbs, self._real))
        found: dict[str, Any] = {
            **{name: pa.array(values, pa.float64(), mask=missing) for name, values in columns.items()},
            PROBLEM: pa.array(problems, pa.string()),
            REAL_DISTANCE: pa.array(distances.astype(np.float64), pa.float64(), mask=unreadable),
            NEAREST: _mask(self._real_names.take(pa.array(rows)), unreadable),
            NEAREST_SOURCE: _mask(self._real_sources.take(pa.array(rows)), unreadable),
            FEATURE: pa.array([row.tobytes() for row in directions.half().cpu().numpy()], pa.binary()),
            THUMBNAIL: pa.array([row.tobytes() for row in thumbs.cpu().numpy()], pa.binary()),
        }
        return StageRows(batch.number, pa.table(found))


def describe_calibration(fitted: Fitted, how: Calibration, identities: list[Any]) -> Mapping[str, Any]:
    """Return a calibration as plain JSON values, for ``scorer.json`` and the console."""
    return {
        "temperature": round(fitted.temperature, 6),
        "reason": fitted.reason,
        "method": type(how).__name__,
        "folds": how.folds,
        "held_out_images": fitted.images,
        "held_out_accuracy": None if not fitted.images else round(fitted.accuracy, 6),
        "held_out_nll": None if not fitted.images else [round(value, 6) for value in fitted.nll],
        "temperature_1_because_of_one_image": [list(identities[number]) for number in fitted.single.tolist()],
    }


def format_calibration(calibration: Mapping[str, Any]) -> str:
    """Format a calibration as one line."""
    single = calibration["temperature_1_because_of_one_image"]
    text = f"temperature {calibration['temperature']:.3f}"
    if calibration["reason"] is not None:
        return f"{text}: {calibration['reason']}"
    first, second = calibration["held_out_nll"]
    text += (
        f" ({calibration['method']}, {calibration['held_out_images']} held-out images, "
        f"{100 * calibration['held_out_accuracy']:.1f} % recognized, NLL {first:.3f} -> {second:.3f})"
    )
    names = [f"{source} {partition} {pid}" for source, partition, pid in single]
    return text + (f"; T = 1 for identities with one image: {shorten(names, 3)}" if single else "")


def _mask(values: pa.Array, hidden: np.ndarray[Any, Any]) -> pa.Array:
    return pc.if_else(pa.array(hidden), pa.scalar(None, pa.string()), values)
