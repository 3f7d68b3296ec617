"""Features of any images: a folder, zip, table, image or dataset, computed batch by batch and resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from diffreid_lightning.datasets import CropFolder, PersonDataset, PersonTable, open_unlabeled
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.datasets.person_table import read_table
from diffreid_lightning.deployment.feature_files import SUFFIXES, Floats, read_about, write_features
from diffreid_lightning.deployment.trained_network import TrainedNetwork
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.image_root import is_image_name
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.metrics.functional.verification import VerificationErrors, verification_errors
from diffreid_lightning.paths import user_path
from diffreid_lightning.reid.datamodule import PersonBatch, PersonImages, collate_persons
from diffreid_lightning.storage.resumable_array import fill_array, map_array

_COLUMNS = ("file_name", "source", "partition", "split", "pid", "camid")


class CropTable(PersonTable):
    """Images listed in a table without people: a column ``path`` and, if known, ``camid``."""

    source = "crops"

    def _pick(self, kind: str, columns: dict[str, list[str]]) -> str | None:
        return None if kind == "pid" else super()._pick(kind, columns)

    def _values(self, columns: dict[str, list[str]], heading: str | None) -> list[str]:
        return ["0"] * len(next(iter(columns.values()))) if heading is None else super()._values(columns, heading)


@dataclass(frozen=True)
class ImageRows:
    """Images to embed.

    Args:
        manifest: their names, people and cameras.
        has_people: the people are known.
        has_cameras: the cameras are known.
    """

    manifest: Manifest
    has_people: bool = True
    has_cameras: bool = True

    @property
    def table(self) -> pa.Table:
        """Return the columns of a file of features; null for an unknown person, a distractor or an unknown camera."""
        table = self.manifest.table
        nobody = pa.scalar(None, pa.int64())
        known = pc.and_(pc.equal(table["role"], "identity"), self.has_people)
        pids = pc.if_else(known, table["pid"], nobody)
        camids = pc.if_else(self.has_cameras, table["camid"], nobody)
        if not isinstance(camids, pa.ChunkedArray):
            camids = pa.nulls(len(table), pa.int64())
        table = table.select(_COLUMNS[:-2])
        return table.append_column("pid", pids).append_column("camid", camids).replace_schema_metadata(None)


@dataclass(frozen=True)
class Embedded:
    """Result of :func:`embed`.

    Args:
        path: the file of features.
        images: rows in it.
        computed: rows that this call has computed.
        seconds: time that took.
    """

    path: Path
    images: int
    computed: int
    seconds: float


def open_images(spec: str) -> ImageRows:
    """Find images.

    Args:
        spec: one image, or what :func:`~diffreid_lightning.datasets.open_unlabeled` takes: a folder or .zip of crops or
            of a dataset, a table, ``miniperson``. A table needs no column of people.

    Raises:
        UserError: there is nothing, or no image.
    """
    path = user_path(spec)
    if is_image_name(path.name) and path.is_file():
        columns = {"file_name": [path.name], "source": "crops", "partition": "train", "pid": 0, "camid": 0}
        manifest = Manifest.from_columns(path.absolute().parent, {**columns, "split": "train", "role": "identity"})
        return ImageRows(manifest, has_people=False, has_cameras=False)
    dataset: PersonDataset
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file() and not _lists_people(path):
        dataset = CropTable(spec)
    else:
        dataset = open_unlabeled(spec)
    manifest = dataset.manifest()
    cameras = manifest.numpy("camid")
    # Formats without cameras give each image its own.
    has_cameras = dataset.has_cameras if isinstance(dataset, CropFolder) else len(np.unique(cameras)) < len(cameras)
    return ImageRows(manifest, not isinstance(dataset, (CropFolder, CropTable)), has_cameras)


def _lists_people(table: Path) -> bool:
    try:
        PersonTable(table)._pick("pid", read_table(table))
    except UserError:
        return False
    return True


def embed(images: ImageRows, network: TrainedNetwork, out: Path, batch_size: int, num_workers: int | None) -> Embedded:
    """Compute features and write them; a killed call is continued by the next one, a finished one is not repeated.

    Args:
        images: the images.
        network: the network; it is moved to the fastest device.
        out: the file to write: .parquet, .npz or .npy.
        batch_size: images at a time.
        num_workers: loader processes; None: one per core, at most 8.

    Raises:
        UserError: an image cannot be read, or ``out`` is something else, or features of other images or another
            network.
        RunError: the disk refuses, or a feature is not finite.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} does not name a file of features.", looked_for=" or ".join(SUFFIXES), found=out.name)
    record, manifest = network.record, images.manifest
    work = json.dumps([manifest.content_hash, manifest.file_fingerprint, record], sort_keys=True)
    key = hashlib.sha256(work.encode()).hexdigest()
    if out.exists():
        if (read_about(out) or {}).get("key") == key:
            return Embedded(out, len(manifest), 0, 0.0)
        raise UserError(
            f"{out} exists already.",
            looked_for="no such file, or one with the features of these images by this network",
            found="features of other images or another network, or another file",
            remedy="choose another --out, or remove it",
        )
    part = out.with_name(f".{out.name}.{key[:16]}.npy")
    rows = PersonImages(concatenate([manifest]), network.image_size)
    try:
        computed, seconds = compute_features(network, rows, part, batch_size, num_workers)
        features = map_array(part, np.float32, (len(rows), record["num_features"]), remedy=f"remove {part}")
        about: dict[str, Any] = {"images": str(manifest.root), "network": record, "key": key}
        write_features(out, images.table, features, about)
        part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"Features cannot be written to {out}", found=str(error), remedy="free disk space, run again"
        ) from error
    return Embedded(out, len(rows), computed, seconds)


def compute_features(
    network: TrainedNetwork, images: Dataset[PersonBatch], file: Path, batch_size: int, num_workers: int | None
) -> tuple[int, float]:
    """Fill a ``.npy`` file with the features of all images, or go on with one.

    Args:
        network: the network; it is moved to the fastest device.
        images: N images.
        file: the file, (N, D) float32.
        batch_size: images at a time.
        num_workers: loader processes; None: one per core, at most 8.

    Returns:
        The number of images that were left to compute, and the seconds that took.

    Raises:
        UserError: an image cannot be read.
        RunError: a feature is not finite.
        OSError: the disk refuses.
    """
    device, count = fastest_device(), len(images)  # type: ignore[arg-type]  # torch's Dataset names no length
    network.to(device)
    workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers
    batches: Iterator[PersonBatch] = iter(())
    began, computed = time.monotonic(), 0

    def compute(start: int, end: int) -> Floats:
        nonlocal batches, computed
        if not computed:  # only now is it known where to go on
            left = range(start, count)
            batches = iter(
                DataLoader(
                    Subset(images, left),
                    batch_size,
                    num_workers=workers if len(left) > batch_size else 0,
                    collate_fn=collate_persons,
                    pin_memory=device.type == "cuda",
                )
            )
        views = next(batches).images.to(device, non_blocking=True)
        computed += end - start
        with torch.inference_mode():
            found: Floats = network(views.float().div_(255)).float().cpu().numpy()
        return found

    shape = (count, network.backbone.num_features)
    fill_array(file, shape, np.float32, batch_size, compute, f"features of {count:,} images")
    return computed, time.monotonic() - began


def held_out_errors(
    network: TrainedNetwork, images: PersonImages, batch_size: int, num_workers: int | None
) -> VerificationErrors:
    """Measure the errors of every threshold on a validation set.

    Args:
        network: the network; it is moved to the fastest device.
        images: queries, then the gallery; each gallery image of a person with a query counts once.
        batch_size: images at a time.
        num_workers: loader processes; None: one per core, at most 8.
    """
    rows = images.rows
    people = np.unique(rows.labels[images.is_query])  # not the distractors
    chosen = np.flatnonzero(~images.is_query & np.isin(rows.labels, people))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        compute_features(network, Subset(images, chosen.tolist()), file, batch_size, num_workers)
        features = torch.from_numpy(np.load(file))
    labels, camids = (torch.from_numpy(values[chosen]) for values in (rows.labels, rows.camids))
    return verification_errors(features, labels, camids)
