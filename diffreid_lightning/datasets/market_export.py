"""Export images to other folders and layouts, by hard links if the disk allows, else copies."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from diffreid_lightning.datasets.market_layout import EXPORT_NOTE, FOLDERS
from diffreid_lightning.errors import UserError, translate_disk_errors
from diffreid_lightning.manifest.image_decoding import scale_gray
from diffreid_lightning.manifest.image_root import ImageRoot, is_image_name
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.atomic import refuse_foreign, replace_folder
from diffreid_lightning.storage.json_notes import write_json

_IDENTITIES = "identities.csv"
_PLACES = {"train": "train", "val": "train", "generated": "train", "query": "query", "gallery": "gallery"}


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        images: number of exported images.
        linked: number of hard links among them.
        renumbered: whether person numbers differ from the manifest's (``identities.csv`` has both).
        left_out: number of skipped distractors of the val split, which the layout does not have.
        suffixes: suffixes of the exported files.
    """

    images: int
    linked: int
    renumbered: bool
    left_out: int
    suffixes: tuple[str, ...]


def place_image(images: ImageRoot, name: str, target: Path, gray_range: tuple[float, float] | None = None) -> bool:
    """Link or copy an image, unchanged unless ``gray_range`` is given.

    Args:
        images: the image's root.
        name: its name below the root.
        target: the file to create; its folder must exist.
        gray_range: values that become black and white in gray images of more than 8 bits, which are converted to 8
            bits. None copies them unchanged.

    Returns:
        Whether it is a hard link.

    Raises:
        UserError: the image does not exist.
        OSError: the file cannot be written.
    """
    data = images.read(name) if images.in_archive or gray_range is not None else None
    scaled = scale_gray(data, *gray_range) if data is not None and gray_range is not None else None
    if scaled is None and not images.in_archive:
        # Resolve symbolic links, which may be relative; pipes and folders are not images.
        source = os.path.realpath(images.path / name)
        try:
            if os.path.isfile(source):  # noqa: PTH113 (a Path object costs ten times as much)
                os.link(source, target)
                return True
        except OSError:  # another disk, no hard links on the file system, or too many
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
    """Link or copy images to a folder, with a progress bar.

    Args:
        images: the images' root.
        names: their names below it.
        root: the target folder.
        targets: their names below the target folder.
        doing: text of the progress bar.
        gray_range: as for :func:`place_image`.

    Returns:
        The number of hard links.
    """
    for folder in {os.path.dirname(target) for target in targets}:  # noqa: PTH120 (a Path a name costs seconds)
        (root / folder).mkdir(parents=True, exist_ok=True)
    pairs = zip(names, targets, strict=True)
    return sum(
        place_image(images, name, root / target, gray_range) for name, target in track(pairs, doing, total=len(names))
    )


def export_market1501(manifest: Manifest, out: Path, gray_range: tuple[float, float] | None = None) -> Exported:
    """Write a manifest's images as a Market-1501 folder, atomically.

    ``train``, ``val`` and ``generated`` rows go to ``bounding_box_train``, ``query`` to ``query``, ``gallery`` to
    ``bounding_box_test``; names are ``0002_c1s1_000001_00.jpg`` with the original suffix if it is an image's. People
    keep their numbers if these are unique; otherwise (several sources, a person 0, one number in train and test) they
    are renumbered from 1, as are cameras of several sources, or with numbers below 0. ``identities.csv`` maps the
    numbers.

    Args:
        manifest: any manifest.
        out: the folder to write; an earlier export is replaced.
        gray_range: as for :func:`place_image`, one range for all images.

    Raises:
        UserError: ``out`` holds something else, the manifest is empty, an image is missing, or the range is empty.
        RunError: the disk failed; the previous content of ``out`` is unchanged.
    """
    if gray_range is not None and not -math.inf < gray_range[0] < gray_range[1] < math.inf:
        raise UserError(
            "The range of gray values is empty.",
            looked_for="a value that becomes black and a larger one that becomes white",
            found=f"{gray_range[0]:g} and {gray_range[1]:g}",
        )
    remedy = "give another folder with --out, or remove this one yourself"
    refuse_foreign(out, [EXPORT_NOTE], "an export", remedy, (EXPORT_NOTE, _IDENTITIES, *FOLDERS.values()))
    split, role = manifest.numpy("split"), manifest.numpy("role")
    left_out = (split == "val") & (role == "distractor")
    manifest = manifest.filter(~left_out)
    if not len(manifest):
        raise UserError("There is nothing to export.", found=f"no image in {manifest.root}")
    numbers, renumbered = _numbers(manifest)
    cameras = _cameras(manifest)
    targets = _market_names(manifest, numbers, cameras)
    names = manifest.table["file_name"].to_pylist()
    with (
        translate_disk_errors(
            f"The images cannot be exported to {out}",
            "free disk space, or choose a writable folder; its previous content is unchanged",
        ),
        replace_folder(out) as partial,
    ):
        for folder in FOLDERS.values():
            (partial / folder).mkdir()
        linked = place_images(manifest.images, names, partial, targets, "placing images", gray_range)
        _write_identities(manifest, numbers, partial / _IDENTITIES)
        note = {"format": "market1501", "manifest": manifest.content_hash}
        write_json(partial / EXPORT_NOTE, note)
    suffixes = tuple(sorted({os.path.splitext(name)[1].lower() for name in targets}))  # noqa: PTH122
    return Exported(len(names), linked, renumbered, int(left_out.sum()), suffixes)


def _numbers(manifest: Manifest) -> tuple[npt.NDArray[np.int64], bool]:
    """Give people unique numbers; 0 is reserved for distractors."""
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
    if not sources.any() and cameras.min(initial=0) >= 0:  # a name has no place for a sign
        return np.asarray(cameras)
    numbers = np.unique(cameras, return_inverse=True)[1].reshape(-1)
    return np.unique(sources * (numbers.max() + 1) + numbers, return_inverse=True)[1].reshape(-1) + 1


def _market_names(manifest: Manifest, numbers: npt.NDArray[np.int64], cameras: npt.NDArray[np.int64]) -> list[str]:
    """Name each image, with a running number per person and camera."""
    order = np.lexsort((np.arange(len(numbers)), cameras, numbers))
    pairs = np.stack([numbers[order], cameras[order]], axis=1)
    first = np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)])
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    serial = np.empty(len(order), dtype=np.int64)
    serial[order] = np.arange(len(order)) - start + 1
    columns = (manifest.numpy("split").tolist(), numbers.tolist(), cameras.tolist(), serial.tolist())
    names = manifest.table["file_name"].to_pylist()
    # Readers pass over other suffixes, as of a table's .jfif; what a file holds is told by its first bytes.
    suffixes = [os.path.splitext(name)[1] if is_image_name(name) else ".jpg" for name in names]  # noqa: PTH122
    return [
        f"{FOLDERS[_PLACES[split]]}/{number:04d}_c{camera}s1_{index:06d}_00{suffix}"
        for split, number, camera, index, suffix in zip(*columns, suffixes, strict=True)
    ]


def _write_identities(manifest: Manifest, numbers: npt.NDArray[np.int64], file: Path) -> None:
    labels, keys = manifest.identities()
    number_of = dict(zip(labels.tolist(), numbers.tolist(), strict=True))
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("number", "source", "partition", "pid"))
        writer.writerows((number_of[label], *key) for label, key in enumerate(keys))
