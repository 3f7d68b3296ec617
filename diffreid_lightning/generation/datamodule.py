"""Requests for generated images: N per identity, each with attributes, a seed and a reference image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.datasets.identities import choose_people, describe_people, identity_name, identity_names
from diffreid_lightning.datasets.stage_datamodule import StageDataModule
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.errors import UserError, check_image_size, check_range, check_seed
from diffreid_lightning.generation.attribute_design import balanced_design, deal_references, image_seed
from diffreid_lightning.generation.diversity import ImageRequest
from diffreid_lightning.generation.vocabulary import Vocabulary
from diffreid_lightning.manifest.manifest import Manifest


class PromptBatch(NamedTuple):
    """Requests for B images."""

    number: int  #: of the batch in the plan
    requests: list[ImageRequest]  #: B of them
    references: Tensor | None  #: (B, 3, H, W) uint8, their real images, if requested


class _Person(NamedTuple):
    """Identity with its real images."""

    key: IdentityKey
    rows: list[int]  #: of the manifest
    description: str


class PromptsDataModule(StageDataModule):
    """Requests for ``predict`` with a :class:`~diffreid_lightning.generation.module.GenerationModule`.

    Images with index 0 of all identities come first, then those with index 1, and so on: a batch mixes identities, and
    a run that is stopped early has equally many images of each.

    Args:
        source: the real images: a manifest with captions, or any dataset.
        vocabulary: a packaged vocabulary (``default``, ``rendered``) or the path of a YAML file.
        images_per_identity: images to generate of each identity.
        identities: all (None), the first N (a number), or names (``market1501-0002``).
        splits: splits of the identities.
        references: load the real images that the design assigns to the generated ones, for SDEdit.
        image_size: height and width in pixels.
        batch_size: images per batch; part of the plan.
        num_workers: loader processes.
        seed: seed of design and noise; the command line takes ``seed_everything`` unless this is written.

    Raises:
        UserError: there is no such vocabulary, or it is invalid; a number is out of its range.
    """

    def __init__(
        self,
        source: PersonDataset | str,
        vocabulary: str = "default",
        images_per_identity: int = 8,
        identities: int | list[str] | None = None,
        splits: tuple[str, ...] = ("train",),
        references: bool = False,
        image_size: tuple[int, int] = (256, 128),
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_range("data.images_per_identity", images_per_identity, 1, 100_000)
        check_image_size("data.image_size", image_size)
        if isinstance(identities, (int, float)):
            check_range("data.identities", identities, 1)
        check_seed("data.seed", seed)
        self._source = open_dataset(source)
        self.vocabulary = Vocabulary.read(vocabulary)
        self.images_per_identity = images_per_identity
        self.identities = identities
        self.splits = splits
        self.references = references
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Compute the design before loader processes start."""
        _ = self._design

    @cached_property
    def manifest(self) -> Manifest:
        """Real images."""
        return self._source.manifest()

    @property
    def rows(self) -> int:
        """Number of images to generate."""
        return len(self.people) * self.images_per_identity

    @property
    def cache_key(self) -> dict[str, Any]:
        """Settings that determine the requests."""
        names = [identity_name(person.key) for person in self.people]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return {
            **super().cache_key,
            "identities": f"{len(names)} ({digest[:16]})",
            "images_per_identity": self.images_per_identity,
            "vocabulary": [[name, list(phrases)] for name, phrases in self.vocabulary.phrases.items()],  # in its order
            "splits": list(self.splits),
            "references": self.references,
            "image_size": list(self.image_size),
            "seed": self.seed,
        }

    @property
    def reads_images(self) -> bool:
        """Return true if images are made from real ones."""
        return self.references

    @cached_property
    def people(self) -> list[_Person]:
        """Identities, sorted by key.

        Raises:
            UserError: there is none, a requested one has no image in the splits, or two share a name.
        """
        wanted = np.isin(self.manifest.numpy("split").astype(str), self.splits)
        wanted &= self.manifest.numpy("role") == "identity"
        where = f"images of split {' or '.join(self.splits)} in {self.manifest.root}"
        if not wanted.any():
            raise UserError(
                "There is no identity to generate.",
                looked_for=where,
                found="the manifest's splits are " + ", ".join(sorted(set(self.manifest.numpy("split").tolist()))),
                remedy="change data.splits",
            )
        rows, meant = np.flatnonzero(wanted), self.manifest.filter(wanted)
        labels, keys = meant.identities()
        identity_names(keys)
        groups = np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels))[:-1])
        told = describe_people(meant)
        chosen = choose_people(keys, self.identities, where, self.manifest.identities()[1])
        return [_Person(keys[place], groups[place].tolist(), told[place]) for place in chosen]

    def request(self, row: int) -> ImageRequest:
        """Return the request in a row of the plan."""
        index, number = divmod(row, len(self.people))
        person = self.people[number]
        reference = person.rows[self._reference_numbers[number][index]]
        return ImageRequest(
            key=person.key,
            number=index,
            seed=image_seed(person.key, index, self.seed),
            description=person.description,
            attributes=self.vocabulary.name(self._design[number, index].tolist()),
            reference=self.manifest.table["file_name"][reference].as_py(),
            reference_circumstances=self._circumstances[reference] or "",
        )

    def load(self, number: int, rows: range) -> PromptBatch:
        """Load one batch."""
        requests = [self.request(row) for row in rows]
        images = self.manifest.images
        views = [evaluation_view(images.image(each.reference), self.image_size) for each in requests * self.references]
        return PromptBatch(number, requests, torch.stack(views) if views else None)

    def transfer_batch_to_device(self, batch: PromptBatch, device: torch.device, dataloader_idx: int) -> PromptBatch:
        """Move the reference images to the device."""
        # The loader turns tuples into lists, but keys must be hashable.
        requests = [each._replace(key=(each.key[0], each.key[1], each.key[2])) for each in batch.requests]
        references = batch.references if batch.references is None else batch.references.to(device)
        return PromptBatch(batch.number, requests, references)

    @cached_property
    def _design(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        keys = [person.key for person in self.people]
        return balanced_design(keys, self.images_per_identity, self.vocabulary.sizes, self.seed)

    @cached_property
    def _reference_numbers(self) -> list[list[int]]:
        count = self.images_per_identity
        return [deal_references(person.key, count, len(person.rows), self.seed).tolist() for person in self.people]

    @cached_property
    def _circumstances(self) -> Sequence[str | None]:
        if "circumstances" not in self.manifest.columns:
            return [None] * len(self.manifest)
        values: list[str | None] = self.manifest.table["circumstances"].to_pylist()
        return values
