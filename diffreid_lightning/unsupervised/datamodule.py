"""Training images without their identities, for modules that find labels themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import Sampler

from diffreid_lightning.datasets import CropFolder, PersonDataset, open_dataset, open_unlabeled
from diffreid_lightning.datasets.concat import (
    ConcatRows,
    IdentityKey,
    concatenate,
    refuse_clashing_sources,
)
from diffreid_lightning.datasets.holdout import trainable_rows
from diffreid_lightning.datasets.inspect import empty_split
from diffreid_lightning.datasets.samplers import PKSampler, ShuffledRows
from diffreid_lightning.datasets.training_rows import digest_rows, hash_images
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import describe_source
from diffreid_lightning.metrics.functional.checks import cameras_are_known
from diffreid_lightning.reid.datamodule import ReIDDataModule, Source
from diffreid_lightning.reid.person_images import PersonImages
from diffreid_lightning.unsupervised.cluster_sampler import ClusterSampler

#: the one identity of all rows whose identities were removed
NOBODY: IdentityKey = ("unlabeled", "train", 0)

LabelSampler = Callable[[Sequence[int]], Sampler[Any]]


def remove_identities(rows: ConcatRows) -> ConcatRows:
    """Return the rows with one identity for all: images, cameras and order stay."""
    return replace(rows, labels=np.zeros(len(rows), dtype=np.int64), identities=(NOBODY,))


class UnlabeledDataModule(ReIDDataModule):
    """Images to be trained on without labels; query and gallery for the evaluation.

    A target may be a labeled dataset: its identities are removed from the training rows before the module sees them,
    and remain for the evaluation alone. A folder or zip of images in no known layout is read as
    :class:`~diffreid_lightning.datasets.crop_folder.CropFolder`.

    Args:
        target: one source of unlabeled images or several.
        source: labeled images that are trained on beside the target, one source or several; None for none. Real images
            of the target's own people are refused, whose labels nobody is to know; generated ones are not. Their
            batches come from a sampler like the target's, of identities instead of clusters. People who are held out of
            the target are left out of it as well, such as in a Diff-Person that was made from the target.
        sampler: makes the sampler from the (N,) cluster labels; None means :class:`~.cluster_sampler.ClusterSampler`
            as it stands.
        val_share: share of the target's identities held out for validation, for targets that have identities; they are
            not trained on. 0 trains on all images, as published recipes do.
        kwargs: see :class:`~diffreid_lightning.reid.datamodule.ReIDDataModule`.
    """

    def __init__(
        self,
        target: Source | list[Source] = "miniperson",
        source: Source | list[Source] | None = None,
        sampler: LabelSampler | None = None,
        val_share: float | None = 0.0,
        **kwargs: Any,
    ) -> None:
        targets = target if isinstance(target, list) else [target]
        if not targets or None in targets:
            raise UserError("data.target names no source.", remedy="give a folder of crops, a dataset, or 'miniperson'")
        if kwargs.get("sample_weight") is not None:
            raise UserError(
                "data.sample_weight cannot be used here: images without labels all count alike.",
                remedy="leave it out",
            )
        opened = _with_own_sources([open_unlabeled(each) for each in targets])
        if val_share and any(isinstance(each, CropFolder) for each in opened):
            raise UserError(
                "Crops that nobody has labeled cannot be held out by person.",
                found=f"data.val_share {val_share}",
                remedy="leave it out, or give 0",
            )
        super().__init__(train=[*opened], val_share=val_share, sampler=sampler or ClusterSampler, **kwargs)
        sources = source if isinstance(source, list) else [source]
        self._sources: list[PersonDataset] = [open_dataset(each) for each in sources if each is not None]
        self._labels: npt.NDArray[np.int64] | None = None
        self._target_sampler: Any = None

    @cached_property
    def _labeled_rows(self) -> ConcatRows:
        rows = concatenate(self._trained_manifests())
        if not len(rows):
            raise empty_split("train", [manifest for manifest, _ in self._train_manifests])
        return rows

    @cached_property
    def train_set(self) -> PersonImages:
        """The target's rows, without identities."""
        return self._training_images(remove_identities(self._labeled_rows))

    @cached_property
    def source_set(self) -> PersonImages | None:
        """The labeled rows that are trained on as well; None without a source."""
        if not self._sources:
            return None
        manifests = [source.training_manifest() for source in self._sources]
        if self._held_out:  # by source and number, which a person of the target and another one may share
            targets = [manifest for manifest, _ in self._train_manifests]
            datasets = [*self._train_sources, *self._sources]
            refuse_clashing_sources([*targets, *manifests], datasets, "--data.target and --data.source")
        trained = [manifest.filter(trainable_rows(manifest, self._held_out)) for manifest in manifests]
        refuse_target_labels(self._trained_manifests(), trained)
        rows = concatenate(trained)
        if len(rows.identities) < 2:
            raise UserError(
                "The source has too few identities to train on.",
                looked_for="images of two or more people in its train split, who are not held out (data.val_share)",
                found=f"{len(rows.identities)} in {shorten(str(manifest.root) for manifest in manifests)}",
                remedy="give a labeled dataset: --data.source PATH",
            )
        return self._training_images(rows)

    def true_labels(self) -> npt.NDArray[np.int64] | None:
        """Return the target's identity numbers, (N,), to judge clusters by; None where some images have none."""
        rows = self._labeled_rows
        is_labeled = not any(isinstance(each, CropFolder) for each in self._train_sources)
        return rows.labels if is_labeled and len(rows.identities) > 1 else None

    @property
    def num_identities(self) -> int:
        """Identities of the source; none where there is no source."""
        return 0 if self.source_set is None else len(self.source_set.rows.identities)

    @property
    def training_identities(self) -> list[list[str | int]]:
        """The (source, partition, pid) of the source's people; the target's are nobody's to know."""
        return [] if self.source_set is None else [list(key) for key in self.source_set.rows.identities]

    @cached_property
    def training_images(self) -> npt.NDArray[np.int64]:
        """The target's images, (N,) hashed names, by which a checkpoint knows them without their identities."""
        return hash_images(self._labeled_rows)

    @cached_property
    def source_rows(self) -> str | None:
        """Digest of the source's rows, as :attr:`training_rows` is of the target's; None without a source."""
        if self.source_set is None:
            return None
        rows = self.source_set.rows
        return digest_rows(rows.identities, rows.labels, rows.file_names)

    @property
    def camids(self) -> npt.NDArray[np.int64]:
        """Camera numbers of the training rows, (N,)."""
        return self.train_set.rows.camids

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the unlabeled images of the training set, and the labeled sources beside them."""
        described = super().provenance
        unlabeled = [{"names": each["sources"], "manifest": each["manifest"]} for each in described["manifests"]]
        labeled = [describe_source(each.training_manifest()) for each in self._sources]
        described.update(unlabeled=unlabeled, manifests=labeled)
        described.update(identities="none: labels come from clusters", camera_ids=len(np.unique(self.camids)))
        return described

    @property
    def target_description(self) -> str:
        """Return what the target is, with the numbers of images and, where they are known, of cameras, in one line."""
        what = "; ".join(source.description for source in self._train_sources)
        cameras = f", {len(np.unique(self.camids))} cameras" if cameras_are_known(self.camids) else ""
        return f"{what} ({len(self.train_set):,} images{cameras})"

    def use_labels(self, labels: npt.NDArray[np.int64]) -> None:
        """Draw the batches of the next epochs from these clusters.

        Args:
            labels: (N,) cluster of each training row, -1 for none.
        """
        if self._labels is None and self._target_sampler is not None and self.trainer is not None:
            # A schedule in steps asked for the number of batches. Workers have drawn some since, of no cluster.
            self.trainer.fit_loop._combined_loader = None
        self._labels = labels
        if self._target_sampler is not None:
            self._target_sampler.labels = labels

    def train_dataloader(self) -> Any:
        """Batches of clusters; beside them batches of the source's identities, where there is a source.

        Raises:
            UserError: nothing has clustered the images, and nothing will; or the sampler takes images of no cluster for
                one person.
        """
        labels = self._labels
        if labels is None:
            if self.trainer is None or not hasattr(self.trainer.lightning_module, "find_clusters"):
                raise UserError(
                    "The images have no labels, and nothing will cluster them.",
                    remedy="use --model UnsupervisedReID; or, for images with labels, --data ReIDDataModule",
                )
            labels = np.zeros(len(self.train_set), dtype=np.int64)  # a schedule in steps asks for the number of batches
        target, self._target_sampler = self._training_loader(self.train_set, labels)
        if isinstance(self._target_sampler, (PKSampler, ShuffledRows)):
            raise UserError(
                f"{type(self._target_sampler).__name__} takes images of no cluster (outliers) for one person.",
                remedy="use ClusterSampler, the default of data.sampler here",
            )
        if self.source_set is None:
            return target
        source, _ = self._training_loader(self.source_set, self.source_set.rows.labels)
        return CombinedLoader({"target": target, "source": source}, "min_size")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn bytes into floats on the device, of each domain."""
        if isinstance(batch, dict):
            return {name: self.on_after_batch_transfer(part, dataloader_idx) for name, part in batch.items()}
        return super().on_after_batch_transfer(batch, dataloader_idx)


def refuse_target_labels(targets: Sequence[Manifest], sources: Sequence[Manifest]) -> None:
    """Refuse real images of the target's people with their labels; generated ones may be made from its clusters.

    Args:
        targets: the rows that are trained on without labels.
        sources: those that are trained on with labels.

    Raises:
        UserError: a person of a source is one of a target in the same folder.
    """
    for source in sources:
        people = set(source.filter(np.isin(np.asarray(source.numpy("split")), ["train", "val"])).identities()[1])
        for target in targets:
            shared = people & set(target.identities()[1])
            if shared and target.root == source.root:
                raise UserError(
                    "data.source holds real images of the target: its labels would be trained on.",
                    looked_for="labeled images of other people, or generated ones",
                    found=f"{len(shared):,} people of {source.root} in both",
                    remedy="give another dataset with --data.source PATH; or use --model UnsupervisedReID without it",
                )


def _with_own_sources(targets: list[PersonDataset]) -> list[PersonDataset]:
    """Give each folder of crops a source of its own, so that cameras of two folders with one number stay two."""
    taken: set[str] = set()
    for each in targets:
        if isinstance(each, CropFolder):
            names = itertools.chain([each.source], (f"{each.source}_{number}" for number in itertools.count(2)))
            each.source = next(name for name in names if name not in taken)
        taken.add(each.source)
    return targets
