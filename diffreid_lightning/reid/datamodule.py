"""The Re-ID DataModule: any number of training sources, held-out identities for validation, one test set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from diffreid_lightning.cores import default_num_workers
from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.concat import (
    ConcatRows,
    IdentityKey,
    concatenate,
    refuse_clashing_sources,
    warn_of_shared_default_source,
)
from diffreid_lightning.datasets.holdout import hold_out_identities, trainable_rows
from diffreid_lightning.datasets.inspect import empty_split, refuse_unanswerable
from diffreid_lightning.datasets.samplers import PKSampler
from diffreid_lightning.datasets.training_rows import digest_rows
from diffreid_lightning.datasets.transforms import TrainView
from diffreid_lightning.errors import UserError, check_image_size, check_range, check_seed, check_workers, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.manifest.provenance import describe_source
from diffreid_lightning.reid.person_images import (
    DecodedImages,
    PersonBatch,
    PersonImage,
    PersonImages,
    collate_persons,
    search_among,
)
from diffreid_lightning.reid.sample_weights import generated_weights
from diffreid_lightning.training.trainer_parts import start_at_epoch

SamplerFactory = Callable[[Sequence[int]], Sampler[Any]]
Source = PersonDataset | str


class ReIDDataModule(LightningDataModule):
    """Images, identities and cameras for training and evaluating a Re-ID network.

    A source is a dataset class, the path of a dataset in any known layout (a folder or a zip; the layout is
    recognized), or ``miniperson`` / ``miniperson:station``, which ship with the package.

    Args:
        train: one source or several, chained. An identity is (source, partition, pid), so equal pids do not clash, and
            generated images join the real ones of their person. How many of a batch are generated is the sampler's.
        test: the source whose query and gallery ``test`` reads; None means the first training source.
        image_size: height and width in pixels.
        val_share: share of the training identities held out for validation, 0 to 1. A source with a ``val`` split of
            its own keeps that one. 0 trains on everything, as published recipes do; None on everything but a source's
            own ``val`` split.
        sampler: makes the training sampler from the (N,) labels; it must have a ``batch_size``. None means
            :class:`~.samplers.PKSampler` as it stands.
        train_view: augmentation of the training images; None means :class:`~.transforms.TrainView` as it stands.
        cache_images: keep training images in memory, decoded and resized, from the first time they are used: faster
            where loading is the limit, for H × W × 3 bytes each. The training view then gets a tensor.
        sample_weight: column of generated images, such as ``confidence``, by which each counts in the losses; real
            ones count 1. None: all alike.
        eval_batch_size: images per batch of validation, test and predict.
        num_workers: loader processes; None means one per core, at most 8 (divided by the processes on this machine).
        seed: seed of the held-out choice, the sampling and the augmentation; the command line
            takes ``seed_everything`` unless this is written.
    """

    def __init__(
        self,
        train: Source | list[Source] = "miniperson",
        test: Source | None = None,
        image_size: tuple[int, int] = (256, 128),
        val_share: float | None = 0.1,
        sampler: SamplerFactory | None = None,
        train_view: TrainView | None = None,
        sample_weight: str | None = None,
        eval_batch_size: int = 128,
        num_workers: int | None = None,
        cache_images: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_image_size("data.image_size", image_size)
        check_seed("data.seed", seed)
        if val_share is not None and not 0 <= val_share < 1:
            raise UserError(
                f"data.val_share is {val_share}.", looked_for="a share from 0 up to, not including, 1, or null"
            )
        check_workers("data.num_workers", num_workers)
        check_range("data.eval_batch_size", eval_batch_size, 1)
        sources = train if isinstance(train, list) else [train]
        if not sources or None in sources:
            raise UserError("data.train names no source.", remedy="give a path, or 'miniperson'")
        self._train_sources = [open_dataset(source) for source in sources]
        self._test_source = self._train_sources[0] if test is None else open_dataset(test)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.val_share = val_share
        self.sampler = sampler or PKSampler
        self.train_view = train_view or TrainView()
        self.sample_weight = sample_weight
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.cache_images = cache_images
        self.seed = seed

    # What the stages see. Each is built when it is first asked for, so that `test` never touches the training rows.

    @cached_property
    def train_set(self) -> PersonImages:
        """The rows trained on."""
        chosen = self._trained_manifests()
        rows = concatenate(chosen)
        if len(rows.identities) < 2:
            raise self._too_few()
        weights = None if self.sample_weight is None else generated_weights(chosen, self.sample_weight)
        return self._training_images(rows, weights)

    def _training_images(self, rows: ConcatRows, weights: npt.NDArray[np.float32] | None = None) -> PersonImages:
        """Return rows with the training view."""
        decoded = DecodedImages(rows, self.image_size) if self.cache_images else None
        return PersonImages(rows, self.image_size, train_view=self.train_view, weights=weights, decoded=decoded)

    @cached_property
    def val_set(self) -> PersonImages | None:
        """The held-out identities: one image per identity and camera as queries, then all of them as gallery.

        None when nobody is held out.
        """
        held_out = [manifest.filter(mask) for manifest, mask in self._train_manifests if mask.any()]
        return search_among(held_out, self.image_size)

    @cached_property
    def test_set(self) -> PersonImages:
        """Query rows, then gallery rows, of the test source."""
        manifest = self._test_source.manifest()
        split = np.asarray(manifest.numpy("split"))
        for name in ("query", "gallery"):
            if not (split == name).any():
                raise empty_split(name, [manifest])
        rows = concatenate([manifest.filter(split == "query"), manifest.filter(split == "gallery")])
        return PersonImages(rows, self.image_size, is_query=np.arange(len(rows)) < int((split == "query").sum()))

    @property
    def num_identities(self) -> int:
        """Classes of the training set; its labels run from 0 to one less."""
        return len(self.train_set.rows.identities)

    @cached_property
    def training_rows(self) -> str:
        """Digest of the training rows, by which a checkpoint knows them again."""
        rows = self.train_set.rows
        return digest_rows(rows.identities, rows.labels, rows.file_names)

    @property
    def training_identities(self) -> list[list[str | int]]:
        """The (source, partition, pid) behind each label."""
        return [list(key) for key in self.train_set.rows.identities]

    @property
    def has_test(self) -> bool:
        """Return true if the test source has a query or a gallery split."""
        return bool(np.isin(np.asarray(self._test_source.manifest().numpy("split")), ["query", "gallery"]).any())

    @property
    def names_test(self) -> bool:
        """Return true if a test source was given, other than the first training source."""
        return self._test_source is not self._train_sources[0]

    def refuse_unanswerable(self) -> None:
        """Look at query and gallery before hours are spent on a network for them.

        Raises:
            UserError: :func:`~.datasets.inspect.refuse_unanswerable` does, or an image cannot be read.
        """
        refuse_unanswerable(self._test_source.manifest())
        self.test_set.refuse_broken()

    def refuse_unanswerable_validation(self) -> None:
        """Refuse held-out identities of which none has images from two cameras, before hours are spent.

        Raises:
            UserError: there are no others, or an image cannot be read.
        """
        images = self.val_set
        asked = () if images is None else images.rows.labels[images.is_query].tolist()  # one image for each camera
        if asked and len(set(asked)) == len(asked):
            raise UserError(
                "None of the held-out identities can be searched for: no validation can be measured.",
                looked_for="images of one of them from two cameras",
                found=f"{len(asked)} identities, each from one camera",
                remedy="hold out others with --data.val_share 0.1, or nobody with --data.val_share 0",
            )
        if images is not None:
            images.refuse_broken()

    @property
    def test_name(self) -> str:
        """Name of the test source, for reports."""
        return str(self._test_source.manifest().numpy("source")[0])

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the sources of the training set, with content hashes, and the choice of held-out identities."""
        return {
            "manifests": [describe_source(manifest) for manifest, _ in self._train_manifests],
            "identities": self.num_identities,
            "images": len(self.train_set),
            "val_share": self.val_share,
            "seed": self.seed,
        }

    @property
    def test_provenance(self) -> dict[str, Any] | None:
        """Return source, content hash and sizes of query and gallery; None where there are none."""
        if not self.has_test:
            return None
        asked = int(self.test_set.is_query.sum())
        manifest = self._test_source.manifest()
        return {
            "source": self.test_name,
            "manifest": manifest.content_hash,
            "queries": asked,
            "gallery": len(self.test_set) - asked,
        }

    def retrieval_set(self, stage: str) -> PersonImages | None:
        """Return the set that ``stage`` (``validate`` or ``test``) evaluates on."""
        return self.val_set if stage == "validate" else self.test_set

    @cached_property
    def _train_manifests(self) -> list[tuple[Manifest, npt.NDArray[np.bool_]]]:
        everybody = self.val_share == 0  # nobody is held out
        manifests = [source.training_manifest() if everybody else source.manifest() for source in self._train_sources]
        refuse_clashing_sources(manifests, self._train_sources)
        warn_of_shared_default_source(manifests)
        return [(manifest, hold_out_identities(manifest, self.val_share, self.seed)) for manifest in manifests]

    def _trained_manifests(self) -> list[Manifest]:
        """Return the rows of each source that are trained on: those of nobody who is held out."""
        return [manifest.filter(trainable_rows(manifest, self._held_out)) for manifest, _ in self._train_manifests]

    @cached_property
    def _held_out(self) -> frozenset[IdentityKey]:
        pairs = self._train_manifests
        return frozenset(key for manifest, mask in pairs for key in manifest.filter(mask).identities()[1])

    def _too_few(self) -> UserError:
        """Word the error for fewer than two identities to train on."""
        manifests = [manifest for manifest, _ in self._train_manifests]
        everybody = concatenate([manifest.filter(trainable_rows(manifest, ())) for manifest in manifests])
        people = len(everybody.identities)
        if not people:
            return empty_split("train", manifests)
        if people > 1:
            left = people - len(self._held_out)
            return UserError(
                f"Of {people} identities {max(left, 0)} are left to train on: the others are held out for validation.",
                looked_for="two or more, or nothing can be told apart",
                found=f"data.val_share {self.val_share}",
                remedy="hold out nobody with --data.val_share 0, or add images of other people",
            )
        source, _, pid = everybody.identities[0]
        return UserError(
            "There is one identity: nothing can be told apart.",
            looked_for="images of two or more people in the train split",
            found=f"{len(everybody)} images of person {pid} of {source}: {shorten(str(m.root) for m in manifests)}",
            remedy="add images of other people: to train on two sources, --data.train '[FIRST, SECOND]'",
        )

    # Loaders.

    def train_dataloader(self) -> DataLoader[PersonBatch]:
        """P×K batches."""
        return self._training_loader(self.train_set, self.train_set.rows.labels)[0]

    def _training_loader(
        self, images: PersonImages, labels: npt.NDArray[np.int64]
    ) -> tuple[DataLoader[PersonBatch], Sampler[Any]]:
        """Return the loader of training batches over some labels, and its sampler."""
        sampler = self.sampler(labels.tolist())
        if hasattr(sampler, "has_own_seed") and not sampler.has_own_seed:
            sampler.seed = self.seed  # type: ignore[attr-defined]
        if isinstance(sampler, PKSampler):
            sampler.generated = images.rows.generated
            sampler.cameras = images.rows.camids
        batch_size = getattr(sampler, "batch_size", None)
        if batch_size is None:
            raise UserError(
                f"{type(sampler).__name__} cannot be used as data.sampler.",
                looked_for="a batch_size, the number of draws in a batch",
                remedy="give the sampler class a batch_size attribute",
            )
        check_range("the number of images in a batch (data.sampler)", batch_size, 2)  # batch norm needs two
        sampler = start_at_epoch(sampler, self.trainer)
        return self._loader(images, batch_size=batch_size, sampler=sampler, drop_last=True), sampler

    def seen_dataloader(self, part: int = 0, parts: int = 1) -> DataLoader[PersonBatch]:
        """The training rows ``part``, ``part + parts``, ... once, in order, as evaluation sees them."""
        images = PersonImages(self.train_set.rows, self.image_size, decoded=self.train_set.decoded)
        return self._loader(Subset(images, range(part, len(images), parts)), batch_size=self.eval_batch_size)

    def val_dataloader(self) -> DataLoader[PersonBatch] | list[DataLoader[PersonBatch]]:
        """The held-out identities; no loader at all when ``val_share`` is 0."""
        return [] if self.val_set is None else self._loader(self.val_set, batch_size=self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[PersonBatch]:
        """Query and gallery."""
        return self._loader(self.test_set, batch_size=self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[PersonBatch]:
        """Query and gallery, for their features."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: PersonBatch, dataloader_idx: int) -> PersonBatch:
        """Turn bytes into floats on the device: a quarter of the traffic, none of the loader's time."""
        return batch._replace(images=batch.images.float().div_(255))

    def _loader(self, images: Dataset[PersonImage], **kwargs: Any) -> DataLoader[PersonBatch]:
        workers = self.num_workers
        if workers is None:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or getattr(self.trainer, "num_devices", 1) or 1
            workers = default_num_workers(local)
        return DataLoader(
            images,  # type: ignore[arg-type]  # rows, which the collate function makes batches of
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate_persons,
            generator=torch.Generator().manual_seed(self.seed),  # its worker seeds must not disturb the model's stream
            **kwargs,
        )
