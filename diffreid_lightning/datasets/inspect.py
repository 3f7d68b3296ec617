"""Check a dataset before training on it: counts against the published ones, labels, broken images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffreid_lightning.datasets import Counts, CropFolder, PersonDataset, count_splits, open_dataset
from diffreid_lightning.datasets.base import compare_counts, images_are_cameras
from diffreid_lightning.datasets.image_checks import Decoded, decode_all
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.schema import SPLITS


@dataclass(frozen=True)
class SplitReport:
    """Contents of one split.

    Args:
        split: its name.
        counts: ids (the distractors' included), images and cameras.
        images_per_id: fewest, median and most images of an identity, without distractors.
        single_image_ids: identities with one image, which have no positive pair.
        distractors: images of role distractor.
    """

    split: str
    counts: Counts
    images_per_id: tuple[int, float, int]
    single_image_ids: int
    distractors: int


@dataclass(frozen=True)
class Report:
    """Report of ``data check``.

    Args:
        place: the folder or archive of the images.
        description: the dataset's format and options.
        splits: one report per split, in the order train, val, query, gallery, generated.
        published: the published counts by split; empty if there are none.
        junk: dropped images that the dataset labels as junk.
        unmatched_queries: queries without a gallery image of the same identity and another camera; they are skipped.
        leaked_ids: identities in train and in val, query or gallery.
        shared_numbers: person numbers in train and in test; None if the format restarts the numbering for test.
        cameras_unknown: every image has its own camera id.
        decoded: findings of decoding every image; None if they were not decoded.
        strict: whether a difference from the published counts is a problem.
        notes: notes of the reader, on skipped images other than junk and anything else to look at.
        labeled: whether the images have identities; without them nothing is said about people.
    """

    place: Path
    description: str
    splits: tuple[SplitReport, ...]
    published: dict[str, Counts]
    junk: int
    unmatched_queries: int
    leaked_ids: int
    shared_numbers: int | None
    cameras_unknown: bool
    decoded: Decoded | None
    strict: bool
    notes: tuple[str, ...] = ()
    labeled: bool = True

    @property
    def differences(self) -> dict[str, tuple[Counts, Counts | None]]:
        """Return (published, ours) of each split whose counts differ; ours is None if the split is missing."""
        return compare_counts(self.published, {split.split: split.counts for split in self.splits})

    @property
    def problems(self) -> list[str]:
        """Return the faults that must be fixed before the dataset is used; empty if the dataset is ``ok``."""
        found = []
        if self.strict and self.differences:
            found += self._describe_differences()
        if self.leaked_ids:
            found.append(f"{self.leaked_ids:,} identities are in train and in val, query or gallery")
        found += self._find_missing_parts() if self.labeled else []
        if self.decoded is not None:
            found += self.decoded.problems
        if self._no_query_matches:
            found.append(f"none of the {self.unmatched_queries:,} queries has a match in another camera of the gallery")
        return found

    @property
    def _no_query_matches(self) -> bool:
        queries = sum(split.counts.images for split in self.splits if split.split == "query")
        return 0 < queries <= self.unmatched_queries

    def _find_missing_parts(self) -> list[str]:
        """Return what cannot be trained or evaluated because identities or images are missing."""
        ids = {split.split: split.counts.ids for split in self.splits}
        found = []
        if ids.get("train", 0) + ids.get("val", 0) + ids.get("generated", 0) == 1:
            found.append("only one identity to train on")
        for one, other in (("query", "gallery"), ("gallery", "query")):
            if one in ids and other not in ids:
                found.append(f"{one} has images and {other} has none: evaluation is impossible")
        return found

    def _find_weaknesses(self) -> list[str]:
        """Return what weakens training or evaluation."""
        found = []
        for split in self.splits:
            counts = split.counts
            if split.split == "train" and split.single_image_ids == counts.ids > 1:
                found.append("every identity of train has one image: there are no positive pairs")
            if split.split == "train" and counts.cameras == 1 < counts.images:
                found.append("all of train is from one camera: no identity can be held out for validation")
            if split.split == "train" and self.cameras_unknown and _like_cameras(split):
                found.append(
                    f"{counts.ids} people with about {split.images_per_id[1]:.0f} images each: if the folders are "
                    "cameras and nobody is labeled, train with fit --config recipes/adapt --data.target PATH"
                )
            if split.split == "gallery" and counts.ids == 1:
                found.append("the gallery shows one identity: every ranking is correct")
        if not any(split.split in ("train", "generated") for split in self.splits):
            found.append("no image is in train: the dataset can only be tested on")
        return found

    @property
    def hints(self) -> list[str]:
        """Return findings to look at, which may be correct."""
        found = [*self.notes]
        if self.differences and not self.strict:
            found += self._describe_differences()
        found += self._find_weaknesses() if self.labeled else []
        if self.unmatched_queries and not self._no_query_matches:
            found.append(f"{self.unmatched_queries:,} queries have no match in another camera; evaluation skips them")
        if self.cameras_unknown:
            found.append("cameras are unknown (each image its own): no match is removed, so scores are not comparable")
        if self.shared_numbers:
            found.append(
                f"{self.shared_numbers:,} person numbers are in train and in test; if they are the same people, "
                "the test is invalid"
            )
        if self.decoded is not None:
            found += self.decoded.hints
        return found

    def _describe_differences(self) -> list[str]:
        return [
            f"{split} has {ours or 'no images'}; published: {published}"
            for split, (published, ours) in self.differences.items()
        ]

    @property
    def ok(self) -> bool:
        """Return true if there is no fault."""
        return not self.problems


def check(
    dataset: str | os.PathLike[str] | PersonDataset,
    *,
    decode: bool = False,
    strict: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a dataset and report its contents.

    Args:
        dataset: a dataset, or a path or word that ``open_dataset`` accepts.
        decode: also read every image.
        strict: count a difference from the published counts as a problem.
        on_progress: called with (images decoded, all images) at intervals.

    Raises:
        UserError: the dataset cannot be read at all.
    """
    dataset = open_dataset(dataset)
    manifest, junk = dataset.scan()
    counts = count_splits(manifest)
    return Report(
        place=manifest.root,
        description=dataset.description,
        splits=tuple(_report_split(manifest, name, counts[name]) for name in SPLITS if name in counts),
        published=dict(dataset.published_counts),
        junk=junk,
        unmatched_queries=count_unmatched(manifest),
        leaked_ids=_count_leaked(manifest),
        shared_numbers=None if dataset.pids_restart else _count_shared_numbers(manifest),
        cameras_unknown=len(manifest) > 1 and images_are_cameras(manifest),
        decoded=decode_all(manifest, on_progress, pids_restart=dataset.pids_restart) if decode else None,
        strict=strict,
        notes=dataset.notes,
        labeled=not isinstance(dataset, CropFolder),
    )


def _like_cameras(split: SplitReport) -> bool:
    """Return true for few identities with more images each than tracking gives of a person."""
    return 1 < split.counts.ids <= 64 and split.images_per_id[1] >= 100


def _report_split(manifest: Manifest, split: str, counts: Counts) -> SplitReport:
    rows = manifest.filter(manifest.numpy("split") == split)
    people = rows.numpy("role") == "identity"
    labels, _ = rows.identities()
    sizes = np.unique(labels[people], return_counts=True)[1]
    per_id = (int(sizes.min()), float(np.median(sizes)), int(sizes.max())) if len(sizes) else (0, 0.0, 0)
    return SplitReport(split, counts, per_id, int((sizes == 1).sum()), int((~people).sum()))


def count_unmatched(manifest: Manifest) -> int:
    """Count queries without a gallery image of the same identity from another camera."""
    split = manifest.numpy("split")
    labels, _ = manifest.identities()
    cameras = np.unique(manifest.numpy("camid"), return_inverse=True)[1]
    views = np.unique(labels * (int(cameras.max(initial=0)) + 1) + cameras, return_inverse=True)[1]
    query, gallery = split == "query", split == "gallery"
    of_person, of_view = (np.bincount(ids[gallery], minlength=len(ids))[ids[query]] for ids in (labels, views))
    return int((of_person == of_view).sum())


def empty_split(split: str, manifests: Sequence[Manifest]) -> UserError:
    """Word the error for a split without images, with the images of the others."""
    found = [
        f"{path} ({', '.join(f'{n} {s}' for s, n in zip(*np.unique(splits, return_counts=True), strict=True))})"
        for path, splits in ((m.root, np.asarray(m.numpy("split"), dtype=str)) for m in manifests)
    ]
    return UserError(
        f"There is no image in the {split} split.",
        looked_for=f"rows with split {split!r}",
        found=shorten(found),
        remedy="see what is there with: python -m diffreid_lightning data check PATH"
        + ("" if split == "train" else "; or train without a test: --test_with none"),
    )


def refuse_unanswerable(manifest: Manifest) -> None:
    """Refuse a query and a gallery on which nothing can be measured; no image is opened.

    Raises:
        UserError: one of the two is empty, or no query has a match.
    """
    split = np.asarray(manifest.numpy("split"))
    asked, gallery = (int((split == name).sum()) for name in ("query", "gallery"))
    if not asked or not gallery:
        raise empty_split("gallery" if asked else "query", [manifest])
    if count_unmatched(manifest) == asked:
        raise UserError(
            f"None of the {asked:,} queries has a match.",
            looked_for="a gallery image of the same person from another camera",
            found=f"{gallery:,} gallery images of {manifest.numpy('source')[0]}",
            remedy="see what is there with: python -m diffreid_lightning data check PATH; or train without a test: "
            "--test_with none",
        )


def _count_leaked(manifest: Manifest) -> int:
    split = manifest.numpy("split")
    people = manifest.numpy("role") == "identity"
    labels, _ = manifest.identities()
    held_out = np.isin(split, ["val", "query", "gallery"])
    return len(np.intersect1d(labels[(split == "train") & people], labels[held_out & people]))


def _count_shared_numbers(manifest: Manifest) -> int:
    """Count (source, pid) that are in train and in test under different partitions."""
    split, people = manifest.numpy("split"), manifest.numpy("role") == "identity"
    pairs = list(zip(manifest.numpy("source"), manifest.numpy("pid").tolist(), strict=True))
    train = {pairs[row] for row in np.flatnonzero(np.isin(split, ["train", "val"]) & people)}
    test = {pairs[row] for row in np.flatnonzero(np.isin(split, ["query", "gallery"]) & people)}
    return len(train & test)
