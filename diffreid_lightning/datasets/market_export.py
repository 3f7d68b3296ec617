"""Images and manifests in other places and other layouts: hard links where the disk allows, copies elsewhere."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from diffreid_lightning.datasets.market_layout import EXPORT_NOTE, FOLDERS
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.image_decoding import scale_gray
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import refuse_foreign, replacing

_PLACES = {"train": "train", "val": "train", "generated": "train", "query": "query", "gallery": "gallery"}


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        images: how many images were placed.
        linked: how many of them are hard links.
        renumbered: whether people have other numbers than in the manifest (``identities.csv`` has both).
        left_out: distractors of the val split, for which the layout has no place.
        suffixes: file suffixes that occur.
    """

    images: int
    linked: int
    renumbered: bool
    left_out: int
    suffixes: tuple[str, ...]


def place_image(images: ImageRoot, name: str, target: Path, gray_range: tuple[float, float] | None = None) -> bool:
    """Put an image in another place, as it is, byte for byte.

    Args:
        images: where it lies.
        name: its name there.
        target: the file to make; its folder must be there.
        gray_range: values of grey images of more than 8 bits that become black and white; such an image is written
            anew with 8 bits. None leaves them as they are.

    Returns:
        Whether it is a hard link: one image under two names.

    Raises:
        UserError: there is no such image.
        OSError: the disk refuses.
    """
    data = images.read(name) if images.in_archive or gray_range is not None else None
    scaled = scale_gray(data, *gray_range) if data is not None and gray_range is not None else None
    if scaled is None and not images.in_archive:
        # A link is hard to the file and not to a link to it, which may be relative; a pipe or a folder is no image.
        source = os.path.realpath(images.path / name)
        try:
            if os.path.isfile(source):  # noqa: PTH113 (a Path object costs ten times as much)
                os.link(source, target)
                return True
        except OSError:  # another disk, a file system without links, or too many links
            pass
    target.write_bytes(scaled or data or images.read(name))
    return False


def place_images(
    images: ImageRoot,
    names: Sequence[str],
    root: Path,
    targets: Sequence[str],
    doing: str,
    gray_range: tuple[float, float] | None = None,
) -> int:
    """Place images below a folder, with a progress bar.

    Args:
        images: where they lie.
        names: their names there.
        root: the folder.
        targets: their names below it.
        doing: what the progress bar says.
        gray_range: as for :func:`place_image`.

    Returns:
        How many are hard links.
    """
    for folder in {os.path.dirname(target) for target in targets}:  # noqa: PTH120 (a Path a name costs seconds)
        (root / folder).mkdir(parents=True, exist_ok=True)
    pairs = zip(names, targets, strict=True)
    return sum(
        place_image(images, name, root / target, gray_range) for name, target in track(pairs, doing, total=len(names))
    )


def export_market1501(manifest: Manifest, out: Path, gray_range: tuple[float, float] | None = None) -> Exported:
    """Write a manifest's images as a Market-1501 folder, whole or not at all.

    ``train``, ``val`` and ``generated`` rows go to ``bounding_box_train``, ``query`` to ``query``, ``gallery`` to
    ``bounding_box_test``; names are ``0002_c1s1_000001_00.jpg`` with the file's own suffix. People keep their numbers
    when no two share one; otherwise (several sources, a person 0, one number in train and in test) they are numbered
    anew from 1, and cameras of several sources likewise. ``identities.csv`` says who is who.

    Args:
        manifest: any manifest.
        out: the folder to write; an earlier export there is replaced.
        gray_range: as for :func:`place_image`, one range for all images.

    Raises:
        UserError: ``out`` holds something else, there is nothing to export, an image is missing, or the range is empty.
        RunError: the disk refuses; what ``out`` held is still there.
    """
    if gray_range is not None and not -math.inf < gray_range[0] < gray_range[1] < math.inf:
        raise UserError(
            "The range of grey values is empty.",
            looked_for="a value that becomes black and a larger one that becomes white",
            found=f"{gray_range[0]:g} and {gray_range[1]:g}",
        )
    refuse_foreign(out, [EXPORT_NOTE], "an export", "give another folder with --out, or remove this one yourself")
    split, role = manifest.numpy("split"), manifest.numpy("role")
    left_out = (split == "val") & (role == "distractor")
    manifest = manifest.filter(~left_out)
    if not len(manifest):
        raise UserError("There is nothing to export.", found=f"no image in {manifest.root}")
    numbers, renumbered = _numbers(manifest)
    cameras = _cameras(manifest)
    targets = _market_names(manifest, numbers, cameras)
    names = manifest.table["file_name"].to_pylist()
    try:
        with replacing(out) as partial:
            for folder in FOLDERS.values():
                (partial / folder).mkdir()
            linked = place_images(manifest.images, names, partial, targets, "placing images", gray_range)
            _write_identities(manifest, numbers, partial / "identities.csv")
            note = {"format": "market1501", "manifest": manifest.content_hash}
            (partial / EXPORT_NOTE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"The images cannot be exported to {out}",
            found=str(error),
            remedy="free disk space, or choose a folder that can be written to; what it held before is still there",
        ) from error
    suffixes = tuple(sorted({os.path.splitext(name)[1].lower() for name in names}))  # noqa: PTH122
    return Exported(len(names), linked, renumbered, int(left_out.sum()), suffixes)


def _numbers(manifest: Manifest) -> tuple[npt.NDArray[np.int64], bool]:
    """Number the people so that no two share a number and 0 is left to distractors."""
    labels, keys = manifest.identities()
    distractor = manifest.numpy("role") == "distractor"
    people = np.unique(labels[~distractor])
    pids = np.asarray([keys[label][2] for label in people.tolist()], dtype=np.int64)
    renumbered = len(np.unique(pids)) < len(pids) or bool((pids == 0).any())
    number_of = np.zeros(len(keys), dtype=np.int64)
    number_of[people] = np.arange(1, len(people) + 1) if renumbered else pids
    return np.where(distractor, 0, number_of[labels]), renumbered


def _cameras(manifest: Manifest) -> npt.NDArray[np.int64]:
    cameras = manifest.numpy("camid")
    sources = np.unique(manifest.numpy("source").astype(str), return_inverse=True)[1].reshape(-1)
    if not sources.any():
        return np.asarray(cameras)
    numbers = np.unique(cameras, return_inverse=True)[1].reshape(-1)
    return np.unique(sources * (numbers.max() + 1) + numbers, return_inverse=True)[1].reshape(-1) + 1


def _market_names(manifest: Manifest, numbers: npt.NDArray[np.int64], cameras: npt.NDArray[np.int64]) -> list[str]:
    """Name each image; the running number tells images of one person and camera apart."""
    order = np.lexsort((np.arange(len(numbers)), cameras, numbers))
    pairs = np.stack([numbers[order], cameras[order]], axis=1)
    first = np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)])
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    serial = np.empty(len(order), dtype=np.int64)
    serial[order] = np.arange(len(order)) - start + 1
    columns = (manifest.numpy("split").tolist(), numbers.tolist(), cameras.tolist(), serial.tolist())
    names = manifest.table["file_name"].to_pylist()
    return [
        f"{FOLDERS[_PLACES[split]]}/{number:04d}_c{camera}s1_{index:06d}_00{os.path.splitext(name)[1]}"  # noqa: PTH122
        for split, number, camera, index, name in zip(*columns, names, strict=True)
    ]


def _write_identities(manifest: Manifest, numbers: npt.NDArray[np.int64], file: Path) -> None:
    labels, keys = manifest.identities()
    number_of = dict(zip(labels.tolist(), numbers.tolist(), strict=True))
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("number", "source", "partition", "pid"))
        writer.writerows((number_of[label], *key) for label, key in enumerate(keys))
