"""Compute features of any images: a folder, zip, table, image or dataset; batch by batch, resumed after a kill."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from diffreid_lightning.cores import default_num_workers
from diffreid_lightning.datasets import CropFolder, PersonTable, open_unlabeled
from diffreid_lightning.datasets.base import images_are_cameras
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.datasets.table_columns import Columns, read_table
from diffreid_lightning.deployment.feature_files import SUFFIXES, Floats, is_rows_file, key_of, write_features
from diffreid_lightning.deployment.trained_network import TrainedNetwork
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import UserError, translate_disk_errors
from diffreid_lightning.manifest.image_root import is_image_name
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.metrics.functional.checks import cameras_are_known
from diffreid_lightning.metrics.functional.verification import VerificationErrors, verification_errors
from diffreid_lightning.paths import user_path
from diffreid_lightning.reid.person_images import PersonBatch, PersonImage, PersonImages, collate_persons
from diffreid_lightning.storage.resumable_array import fill_array, map_array


class CropTable(PersonTable):
    """Images listed in a table without people: a column ``path`` and, if known, ``camid``."""

    source = "crops"

    def _pick(self, kind: str, columns: Columns) -> str | None:
        return None if kind == "pid" else super()._pick(kind, columns)

    def _values(self, columns: Columns, heading: str | None) -> list[str]:
        if heading is None:
            return ["0"] * len(columns[self._pick("path", columns) or ""])
        return super()._values(columns, heading)


class Embedded(NamedTuple):
    """Result of :func:`embed`."""

    path: Path
    images: int  #: rows of the file
    computed: int  #: rows that this call has computed
    seconds: float  #: time that took


class ImageRows(NamedTuple):
    """Images to embed."""

    manifest: Manifest
    has_people: bool

    def table(self) -> pa.Table:
        """Return the columns of a file of features; null for an unknown person, a distractor or an unknown camera."""
        table, count = self.manifest.table, len(self.manifest)
        has_cameras = cameras_are_known(self.manifest.numpy("camid")) and not images_are_cameras(self.manifest)
        known = {
            "pid": pc.and_(pc.equal(table["role"], "identity"), self.has_people),
            "camid": pa.chunked_array([np.full(count, has_cameras)]),
        }
        nothing = pa.scalar(None, pa.int64())
        columns = {name: table[name] for name in ("file_name", "source", "partition", "split")}
        return pa.table(columns | {name: pc.if_else(mask, table[name], nothing) for name, mask in known.items()})


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
        row = {"file_name": [path.name], "source": "crops", "partition": "train", "split": "train", "role": "identity"}
        return ImageRows(Manifest.from_columns(path.absolute().parent, {**row, "pid": 0, "camid": 0}), False)
    dataset = open_unlabeled(spec)
    if type(dataset) is PersonTable and not _lists_people(dataset):
        dataset = CropTable(spec)
    return ImageRows(dataset.manifest(), not isinstance(dataset, (CropFolder, CropTable)))


def _lists_people(table: PersonTable) -> bool:
    try:
        return table._pick("pid", read_table(table.root)) is not None
    except UserError:
        return False


def embed(
    images: ImageRows,
    network: TrainedNetwork,
    out: Path,
    batch_size: int,
    num_workers: int | None,
    replace: bool = False,
) -> Embedded:
    """Compute features and write them; a killed call is continued by the next one, a finished one is not repeated.

    A .npy does not say what it was made of, and is neither repeated nor replaced.

    Args:
        images: the images.
        network: the network; it is moved to the fastest device.
        out: the file to write, see :func:`~.feature_files.write_features`.
        batch_size: images at a time.
        num_workers: loader processes; None: one per core, at most 8.
        replace: replace features of other images or another network.

    Raises:
        UserError: an image cannot be read, or ``out``, or the .csv beside a .npy, is something else.
        RunError: the disk refuses, or a feature is not finite.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} does not name a file of features.", looked_for=" or ".join(SUFFIXES), found=out.name)
    record, manifest = network.record, images.manifest
    work = json.dumps([manifest.content_hash, manifest.file_fingerprint, record], sort_keys=True)
    key = hashlib.sha256(work.encode()).hexdigest()
    found = key_of(out) if out.exists() else None
    if found == key:
        return Embedded(out, len(manifest), 0, 0.0)
    if not (replace and found):
        _refuse_existing(out)
    part = out.with_name(f".{out.name}.{key[:16]}.npy")
    rows = PersonImages(concatenate([manifest]), network.backbone.image_size)
    with translate_disk_errors(
        f"Features cannot be written to {out}", "free disk space and run again, or choose another --out"
    ):
        computed, seconds = compute_features(network, rows, len(rows), part, batch_size, num_workers)
        features = map_array(part, np.float32, (len(rows), record["num_features"]), remedy=f"remove {part}")
        write_features(out, images.table(), features, {"images": str(manifest.root), "network": record, "key": key})
        for left_over in out.parent.glob(f".{glob.escape(out.name)}.*"):  # with those of earlier images or networks
            left_over.unlink(missing_ok=True)
    return Embedded(out, len(rows), computed, seconds)


def _refuse_existing(out: Path) -> None:
    """Refuse to replace a file, and the .csv that lies where the rows of a .npy go."""
    if out.exists():
        other = "features of other or since changed images, or of another network, or another kind of file"
        raise UserError(
            f"{out} exists already.",
            looked_for="no such file, or a .parquet or .npz file of these images by this network",
            found="a .npy, which does not say what it is of" if out.suffix == ".npy" else other,
            remedy="choose another --out, or remove it",
        )
    beside = out.with_suffix(".csv")
    if out.suffix == ".npy" and os.path.lexists(beside) and not is_rows_file(beside):
        raise UserError(
            f"{beside} exists already, and the rows of {out.name} would replace it.",
            looked_for="no such file, or the rows of an interrupted embed",
            found="a table of your own",
            remedy="choose another --out, or move it away",
        )


def compute_features(
    network: TrainedNetwork,
    images: Dataset[PersonImage],
    count: int,
    file: Path,
    batch_size: int,
    num_workers: int | None,
) -> tuple[int, float]:
    """Fill a ``.npy`` file, (N, D) float32, with the features of N images, or go on with one.

    Returns:
        The number of images that were left to compute, and the seconds that took.

    Raises:
        UserError: an image cannot be read.
        RunError: a feature is not finite.
        OSError: the disk refuses.
    """
    device = fastest_device()
    network.to(device)
    workers = default_num_workers() if num_workers is None else num_workers
    batches: Iterator[PersonBatch] = iter(())
    began, computed = time.monotonic(), 0

    def compute(start: int, end: int) -> Floats:
        nonlocal batches, computed
        if not computed:  # only now is it known where to go on
            left = Subset(images, range(start, count))
            few = 0 if len(left) <= batch_size else workers
            on_gpu = device.type == "cuda"
            loader = DataLoader(left, batch_size, num_workers=few, collate_fn=collate_persons, pin_memory=on_gpu)
            batches = iter(loader)
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
    """Measure the errors of every threshold on a validation set: its gallery, without distractors.

    Raises:
        UserError: an image cannot be read, or there are no pairs of images to compare.
    """
    rows = images.rows
    people = np.unique(rows.labels[images.is_query])
    chosen = np.flatnonzero(~images.is_query & np.isin(rows.labels, people))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        compute_features(network, Subset(images, chosen.tolist()), len(chosen), file, batch_size, num_workers)
        features = torch.from_numpy(np.load(file))
    labels, camids = (torch.from_numpy(values[chosen]) for values in (rows.labels, rows.camids))
    return verification_errors(features, labels, camids)
