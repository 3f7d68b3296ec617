"""Save and load a trained scorer: network, classifier, centroids, temperatures, real images.

A folder holds ``backbone/`` (a timm folder with the neck), ``identities.safetensors`` (``classifier`` and ``centroids``
of shape (C, D), ``temperatures`` (C,)), ``scorer.json`` (the identities in that order, image size, calibration,
training data), and thumbnails of the real images for the copy search: ``thumbnails.npy`` (N, 1536) and
``images.parquet`` (their names).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffreid_lightning.backbones import Backbone, BNNeck, load_initial_weights, save_backbone
from diffreid_lightning.backbones.timm_folder import read_safetensors
from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.errors import UserError, translate_disk_errors
from diffreid_lightning.filtering import scores
from diffreid_lightning.filtering.copy_search import LENGTH
from diffreid_lightning.filtering.scored_manifest import THUMBNAILS
from diffreid_lightning.metrics.functional.tiled_matmul import exact_products
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import describe_existing, replace_folder
from diffreid_lightning.storage.json_notes import mismatch, read_json, write_json
from diffreid_lightning.storage.parquet_tables import read_table
from diffreid_lightning.storage.resumable_array import map_array

BACKBONE = "backbone"
TENSORS = "identities.safetensors"
NOTE = "scorer.json"
IMAGES = "images.parquet"
_REMEDY = "copy the folder again, or train anew"
_NOTE_FORM = {
    "identities": [list], "image_size": [int], "after_bn": bool, "flip_average": bool, "image_roots": [str],
    "real_gap": [float],
    "calibration": {"temperature": float, "reason": (str, type(None)), "temperature_1_because_of_one_image": [list]},
}  # fmt: skip
_CALIBRATED = {"held_out_nll": [float], "held_out_images": int, "held_out_accuracy": float, "method": str}
_COLUMNS = {
    "file_name": pa.string(),
    "source": pa.string(),
    "partition": pa.string(),
    "pid": pa.int64(),
    "root": pa.int64(),
}
_TENSOR_NAMES = ("classifier", "centroids", "temperatures")


class Scores(NamedTuple):
    """Scores of a batch, (B,) each; see :mod:`~diffreid_lightning.filtering.scores`."""

    confidence: Tensor
    similarity: Tensor
    margin: Tensor


class Recognizer(nn.Module):
    """Re-ID network with its identities.

    Args:
        backbone: the trained backbone.
        neck: the trained neck.
        classifier: (C, D) weights of the classifier.
        centroids: (C, D) mean direction of each identity's features.
        temperatures: (C,) divisors of the logits, by intended identity.
        after_bn: compare features after the neck, not before it.
        flip_average: average features and logits of an image and its mirror image.
    """

    classifier: Tensor
    centroids: Tensor
    temperatures: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: BNNeck,
        classifier: Tensor,
        centroids: Tensor,
        temperatures: Tensor,
        after_bn: bool = True,
        flip_average: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        for name, tensor in zip(_TENSOR_NAMES, (classifier, centroids, temperatures), strict=True):
            self.register_buffer(name, tensor)
        self.after_bn = after_bn
        self.flip_average = flip_average

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features for similarity and the embeddings for the classifier, (B, D) each.

        Args:
            images: (B, 3, H, W) in 0..1.
        """
        views = [images, images.flip(-1)] if self.flip_average else [images]
        features = torch.stack([self.backbone(view) for view in views])
        embeddings = torch.stack([self.neck(feature) for feature in features]).mean(dim=0)
        return embeddings if self.after_bn else features.mean(dim=0), embeddings

    def forward(self, images: Tensor, identities: Tensor) -> Scores:
        """Score images.

        Args:
            images: (B, 3, H, W) in 0..1.
            identities: (B,) intended identity of each image, int64 in [0, C).
        """
        return self.score(*self.embed(images), identities)

    def score(self, features: Tensor, embeddings: Tensor, identities: Tensor) -> Scores:
        """Score images by what :meth:`embed` returned, (B, D) each, for their intended identities, (B,)."""
        # All in float32, whatever the trainer's precision: its autocast would round logits and cosines.
        classifier, centroids, temperatures = (getattr(self, name).float() for name in _TENSOR_NAMES)
        features = features.float()
        with exact_products():
            logits = embeddings.float() @ classifier.T
            return Scores(
                scores.confidence(logits, identities, temperatures[identities]),
                scores.similarity(features, centroids, identities),
                scores.margin(features, centroids, identities),
            )


@dataclass(frozen=True)
class RealImages:
    """Training images of a scorer, for the copy search.

    Args:
        thumbnails: (N, 1536) uint8.
        table: N rows: ``file_name``, ``source``, ``partition``, ``pid``, and ``root``, a number.
        roots: the folders or archives that the file names are relative to, by that number.
        gap: quantiles 0.01, 0.05, 0.5 of the distance from a real image to the nearest other one.
    """

    thumbnails: Tensor
    table: pa.Table
    roots: Sequence[str]
    gap: Sequence[float]


@dataclass(frozen=True)
class ScorerFolder:
    """Scorer loaded from its folder.

    Args:
        recognizer: the network, on the CPU, in evaluation mode.
        identities: (source, partition, pid) of each class.
        image_size: height and width in pixels.
        real: its training images.
        note: ``scorer.json``.
        content_hash: SHA-256 of everything that determines the scores.
    """

    recognizer: Recognizer
    identities: list[IdentityKey]
    image_size: tuple[int, int]
    real: RealImages
    note: Mapping[str, Any]
    content_hash: str


def save_scorer(
    recognizer: Recognizer,
    identities: Sequence[IdentityKey],
    real: RealImages,
    folder: Path,
    calibration: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a scorer's folder, whole or not at all; under several processes call it on one of them.

    Args:
        recognizer: the trained network.
        identities: (source, partition, pid) of each class.
        real: its training images.
        folder: output folder; an earlier one is replaced.
        calibration: JSON values.
        provenance: of the training, JSON values.

    Raises:
        RunError: the folder cannot be written; the earlier one, if any, is still there.
    """
    note = {
        "identities": [list(key) for key in identities],
        "image_size": list(recognizer.backbone.image_size),
        "after_bn": recognizer.after_bn,
        "flip_average": recognizer.flip_average,
        "calibration": dict(calibration),
        "training": dict(provenance),
        "image_roots": list(real.roots),
        "real_gap": [round(float(gap), 6) for gap in real.gap],
    }
    tensors = {name: getattr(recognizer, name).detach().float().cpu().contiguous() for name in _TENSOR_NAMES}
    with (
        translate_disk_errors(
            f"The scorer cannot be saved in {folder}.",
            "free disk space and continue the run with --ckpt_path last; an earlier scorer there is untouched",
        ),
        replace_folder(folder) as partial,
    ):
        save_backbone(recognizer.backbone, partial / BACKBONE, provenance=provenance, neck=recognizer.neck)
        save_file(tensors, partial / TENSORS, metadata={"format": "pt"})
        np.save(partial / THUMBNAILS, real.thumbnails.cpu().numpy())
        pq.write_table(real.table, partial / IMAGES)
        write_json(partial / NOTE, note)


def load_scorer(path: str | Path) -> ScorerFolder:
    """Open a scorer's folder.

    Raises:
        UserError: it is not there, incomplete or damaged.
    """
    folder = user_path(path)
    missing = [name for name in (NOTE, TENSORS, THUMBNAILS, IMAGES, BACKBONE) if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"There is no scorer at {folder}",
            looked_for=", ".join(missing),
            found=describe_existing(folder),
            remedy="train one: python -m diffreid_lightning fit --config stages/score (it leaves RUN/scorer)",
        )
    note = _read_scorer_note(folder)
    identities = [(str(source), str(partition), int(pid)) for source, partition, pid in note["identities"]]
    height, width = note["image_size"]
    tensors = read_safetensors(folder / TENSORS)
    recognizer = _rebuild(folder, note, tensors, (height, width))
    table = _read_real(folder, len(note["image_roots"]))
    thumbs = map_array(folder / THUMBNAILS, np.uint8, (len(table), LENGTH), remedy=_REMEDY)
    real = RealImages(torch.from_numpy(np.array(thumbs)), table, note["image_roots"], note["real_gap"])
    return ScorerFolder(recognizer, identities, (height, width), real, note, _hash(folder, note))


def _read_scorer_note(folder: Path) -> dict[str, Any]:
    note = read_json(folder / NOTE, _NOTE_FORM, remedy=_REMEDY)
    calibration = note["calibration"]
    wrong = mismatch(calibration, _CALIBRATED, "calibration") if calibration["reason"] is None else None
    if len(note["image_size"]) != 2:
        wrong = f"image_size is {note['image_size']}"
    elif any(len(key) != 3 or mismatch(key[2], int) for key in note["identities"]):
        wrong = "an identity is not (source, partition, pid)"
    elif wrong is None and calibration["reason"] is None and len(calibration["held_out_nll"]) != 2:
        wrong = f"held_out_nll is {calibration['held_out_nll']}"
    if wrong is not None:
        raise _damaged(folder, f"{NOTE}: {wrong}")
    return note


def _read_real(folder: Path, roots: int) -> pa.Table:
    """Read the names of the real images, each relative to one of the roots."""
    table = read_table(folder / IMAGES, remedy=_REMEDY)
    try:
        table = table.select(list(_COLUMNS)).cast(pa.schema(_COLUMNS))
    except (pa.ArrowException, KeyError) as error:
        raise _damaged(folder, f"{IMAGES}: {error}", f"the columns {', '.join(_COLUMNS)}") from error
    numbers = np.asarray(table["root"].fill_null(-1))
    if any(table[name].null_count for name in _COLUMNS) or ((numbers < 0) | (numbers >= roots)).any():
        raise _damaged(folder, f"{IMAGES}: rows without a name or a root")
    return table


def _rebuild(
    folder: Path, note: Mapping[str, Any], tensors: Mapping[str, Tensor], image_size: tuple[int, int]
) -> Recognizer:
    place = f"local-dir:{folder / BACKBONE}"
    backbone = Backbone(place, image_size=image_size)
    count, width = len(note["identities"]), backbone.num_features
    for name in _TENSOR_NAMES:
        shape = (count,) if name == "temperatures" else (count, width)
        found = tensors.get(name)
        if found is None or found.shape != shape or not found.is_floating_point() or not found.isfinite().all():
            state = "is missing" if found is None else f"holds {found.dtype} of shape {tuple(found.shape)}"
            raise _damaged(folder, f"{TENSORS}: {name} {state}", f"finite floats of shape {shape}")
    neck = BNNeck(width)
    load_initial_weights(backbone, place, neck=neck)
    backbone.to(memory_format=backbone.memory_format)
    recognizer = Recognizer(
        backbone,
        neck,
        **{name: tensors[name].float() for name in _TENSOR_NAMES},
        after_bn=bool(note["after_bn"]),
        flip_average=bool(note["flip_average"]),
    )
    return recognizer.eval().requires_grad_(False)


def _hash(folder: Path, note: Mapping[str, Any]) -> str:
    """Hash the weights and the identities, not image paths or the course of training."""
    digest = hashlib.sha256()
    for file in (folder / TENSORS, folder / THUMBNAILS, *sorted((folder / BACKBONE).glob("*.safetensors"))):
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    decisive = {name: note[name] for name in ("identities", "image_size", "after_bn", "flip_average")}
    digest.update(json.dumps(decisive, sort_keys=True).encode())
    return digest.hexdigest()


def _damaged(folder: Path, found: str, looked_for: str | None = None) -> UserError:
    return UserError(f"The scorer at {folder} is damaged.", looked_for=looked_for, found=found, remedy=_REMEDY)
