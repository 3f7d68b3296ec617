"""DataModule of personalization: images of known identities with prompts, and prior images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.identities import choose_people, describe_people, identity_names, rows_of_identities
from diffreid_lightning.datasets.samplers import Draw, ShuffledRows
from diffreid_lightning.datasets.training_rows import digest_rows
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.latent_cache import LatentStore
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import (
    UserError,
    check_image_size,
    check_range,
    check_seed,
    check_workers,
)
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.checkpoint import Identity
from diffreid_lightning.personalization.prior_images import PriorImages, Words
from diffreid_lightning.training.trainer_parts import start_at_epoch

_UNIT = 8  # diffusers' pipelines, which generate prior images and samples, need multiples of it
#: columns that determine an image's latents; captions may change without encoding it again
_PICTURE = ("file_name", "source", "partition", "pid", "camid", "split", "role")


class PersonalizationBatch(NamedTuple):
    """Images of identities and prior images; B and P may differ."""

    moments: Tensor  #: (B, 2C, h, w) mean and log-variance of the autoencoder's posterior, unscaled
    prompts: list[str]  #: B texts
    prior_latents: Tensor  #: (P, C, h, w) latents drawn by the base model, scaled
    prior_prompts: list[str]  #: P texts


class PersonalizationDataModule(LightningDataModule):
    """Training images of selected identities, encoded once by the base model's autoencoder, and prior images.

    The manifest's columns ``description`` (of the identity) and ``circumstances`` (of the image) fill the prompt;
    without a description the ``caption`` is used, without a caption only the name. Only ``train`` rows of identities
    are read: no distractors, no query or gallery rows.

    Args:
        source: a dataset class, the path of a dataset or manifest, or ``miniperson``.
        model: the base model: a folder, a hub id, or ``tiny-sd``; the same as the module's.
        template: prompt template, see :class:`~diffreid_lightning.diffusion.prompt_template.PromptTemplate`.
        identities: a number (the first N), names (``market1501-0002``), or None for all.
        drop_circumstances: probability of dropping the circumstances, 0 to 1, so that the name does not absorb them.
        flip: probability of a mirrored image; left and right are swapped in its prompt.
        prior: prior images for the prior-preservation loss; None for none.
        prior_batch_size: prior images per batch and process; None means ``batch_size``.
        image_size: height and width in pixels.
        batch_size: images of identities per batch and process.
        cache_dir: folder of the cached latents.
        num_workers: loader processes.
        seed: seed of order, choice and prompts; the command line takes ``seed_everything`` unless this is written.
    """

    def __init__(
        self,
        source: PersonDataset | str = "miniperson",
        model: str = "tiny-sd",
        template: str = PromptTemplate().text,
        identities: int | list[str] | None = None,
        drop_circumstances: float = 0.2,
        flip: float = 0.0,
        prior: PriorImages | None = None,
        prior_batch_size: int | None = None,
        image_size: tuple[int, int] = (256, 128),
        batch_size: int = 16,
        cache_dir: str = "runs/cache/latents",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_image_size("data.image_size", image_size)
        check_seed("data.seed", seed)
        check_range("data.drop_circumstances", drop_circumstances, 0, 1)
        check_range("data.flip", flip, 0, 1)
        if any(side < _UNIT or side % _UNIT for side in image_size):
            raise UserError(
                f"data.image_size is {list(image_size)}.",
                looked_for=f"height and width that {_UNIT} divides",
                remedy=f"set data.image_size to {[max(1, round(side / _UNIT)) * _UNIT for side in image_size]}",
            )
        check_range("data.batch_size", batch_size, 1)
        check_range("data.prior_batch_size", prior_batch_size, 0 if prior is None else 1, 100_000)
        if isinstance(identities, (int, float)):
            check_range("data.identities", identities, 1)
        check_workers("data.num_workers", num_workers)
        self._source = open_dataset(source)
        self.model = model
        self.template = PromptTemplate(template).require_identity()
        self._chosen = identities
        self.drop_circumstances = drop_circumstances
        self.flip = flip
        self.prior = prior
        self.prior_batch_size = batch_size if prior_batch_size is None else prior_batch_size
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.num_workers = num_workers
        self.seed = seed

    @cached_property
    def rows(self) -> Manifest:
        """Training images.

        Raises:
            UserError: there are none, or none of a requested identity.
        """
        manifest = self._source.manifest()
        train = rows_of_identities(manifest, "train")
        labels, keys = train.identities()
        identity_names(keys)
        where = f"rows with split 'train' and role 'identity' in {manifest.root}"
        wanted = choose_people(keys, self._chosen, where, manifest.identities()[1])
        return train.filter(np.isin(labels, wanted))

    @cached_property
    def pictures(self) -> Manifest:
        """The training rows without text columns."""
        columns = {name: self.rows.table[name] for name in _PICTURE}
        return Manifest.from_columns(self.rows.root, columns, parents=self.rows.parents)

    @cached_property
    def training_rows(self) -> str:
        """Digest of the images and identities, compared on resume."""
        labels, keys = self.rows.identities()
        return digest_rows(keys, labels, self.rows.table["file_name"])

    @cached_property
    def words(self) -> list[Words]:
        """Description and circumstances of each row."""
        blank = [None] * len(self.rows)
        columns = [
            self.rows.table[name].to_pylist() if name in self.rows.columns else blank
            for name in ("description", "circumstances", "caption")
        ]
        return [
            (description, circumstances or "") if description else (caption or "", "")
            for description, circumstances, caption in zip(*columns, strict=True)
        ]

    @cached_property
    def identities(self) -> list[Identity]:
        """Trained identities, in the order of ``rows.identities()``."""
        _, keys = self.rows.identities()
        return [
            Identity(name, key, description)
            for name, key, description in zip(identity_names(keys), keys, describe_people(self.rows), strict=True)
        ]

    def longest_prompts(self) -> list[str]:
        """Return the longest form of every training prompt: of each row, and of prior images."""
        names = [self.identities[label].name for label in self.rows.identities()[0].tolist()]
        whole = [
            self.template(identity=name, description=description, circumstances=circumstances)
            for name, (description, circumstances) in zip(names, self.words, strict=True)
        ]
        return list(dict.fromkeys([*whole, *self.prior_prompts]))

    @property
    def provenance(self) -> dict[str, Any]:
        """Training data, as plain JSON values."""
        return {
            "manifest": self.rows.content_hash,
            "identities": len(self.identities),
            "images": len(self.rows),
            "prior": None if self.prior is None else {type(self.prior).__name__: len(self.prior_prompts)},
            "seed": self.seed,
        }

    @cached_property
    def prior_prompts(self) -> list[str]:
        """Prompts of the prior images."""
        if self.prior is None:
            return []
        labels, keys = self.rows.identities()
        people: list[list[Words]] = [[] for _ in keys]
        for label, words in zip(labels.tolist(), self.words, strict=True):
            people[label].append(words)
        return self.prior.prompts(people, self.template, self.seed)

    def prepare_data(self) -> None:
        """Encode images and generate prior images that are not cached yet; on one process.

        Raises:
            UserError: the training gives prior images no weight.
        """
        module = getattr(self.trainer, "lightning_module", None)
        if self.prior is not None and getattr(module, "prior_weight", None) == 0:
            raise UserError(
                "Prior images would be drawn and denoised for nothing.",
                found=f"model.prior_weight 0 beside data.prior {type(self.prior).__name__}",
                remedy="use --data.prior null, or give --model.prior_weight",
            )
        store = self._store()
        for mirrored in (False, True)[: 2 if self.flip else 1]:
            store.encode(self.pictures, self.image_size, mirrored)
        if self.prior is not None:
            self.prior.draw(self.model, self.prior_prompts, self.image_size, self.seed)

    def train_dataloader(self) -> DataLoader[PersonalizationBatch]:
        """Load every image once an epoch, each with a newly drawn prompt.

        Raises:
            UserError: there are fewer images than the batch size.
        """
        return DataLoader(
            _PromptedRows(self, self._store()),
            batch_size=self.batch_size,
            sampler=start_at_epoch(ShuffledRows(len(self.rows), self.batch_size, self.seed), self.trainer),
            drop_last=True,
            collate_fn=partial(_collate, prior=self.prior_batch_size if self.prior is not None else 0),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _store(self) -> LatentStore:
        return LatentStore(str(locate_pipeline(self.model)), self.cache_dir)


def swap_left_right(text: str) -> str:
    """Swap left and right in a text; a capital stays one."""

    def other(found: re.Match[str]) -> str:
        word = "right" if found[0].lower() == "left" else "left"
        return word.capitalize() if found[0][0].isupper() else word

    return re.sub(r"\b(left|right)\b", other, text, flags=re.IGNORECASE)


class _PromptedRows(Dataset[PersonalizationBatch]):
    """Rows as batches of one; the draw's seed chooses the prompt and the prior images beside it."""

    def __init__(self, data: PersonalizationDataModule, store: LatentStore) -> None:
        self._data = data
        self._latents = [store.open(data.pictures, data.image_size)]
        if data.flip:
            self._latents.append(store.open(data.pictures, data.image_size, mirrored=True))
        self._prior: npt.NDArray[np.float16] | None = None
        if data.prior is not None:
            self._prior = data.prior.open(data.model, data.prior_prompts, data.image_size, data.seed)
        labels, _ = data.rows.identities()
        self._names = [data.identities[label].name for label in labels.tolist()]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, item: Draw) -> PersonalizationBatch:
        data = self._data
        rng = np.random.default_rng([item.seed, 1])
        mirrored, bare = rng.random() < data.flip, rng.random() < data.drop_circumstances
        description, circumstances = data.words[item.row]
        circumstances = "" if bare else circumstances
        if mirrored:
            description, circumstances = swap_left_right(description), swap_left_right(circumstances)
        prompt = data.template(identity=self._names[item.row], description=description, circumstances=circumstances)
        moments = _tensor(self._latents[int(mirrored)][item.row])
        if self._prior is None:
            channels = moments.shape[0] // 2
            return PersonalizationBatch(moments[None], [prompt], moments.new_zeros(0, channels, *moments.shape[1:]), [])
        turns = -(-data.prior_batch_size // data.batch_size)
        places = [int(np.random.default_rng([item.seed, 2, turn]).integers(len(self._prior))) for turn in range(turns)]
        return PersonalizationBatch(
            moments[None],
            [prompt],
            torch.stack([_tensor(self._prior[place]) for place in places]),
            [data.prior_prompts[place] for place in places],
        )


def _collate(items: Sequence[PersonalizationBatch], prior: int) -> PersonalizationBatch:
    """Concatenate rows, and ``prior`` of their prior images: the first of each row, then the second."""
    priors = [(items[place % len(items)], place // len(items)) for place in range(prior)]
    return PersonalizationBatch(
        torch.cat([item.moments for item in items]),
        [prompt for item in items for prompt in item.prompts],
        torch.stack([item.prior_latents[turn] for item, turn in priors]) if priors else items[0].prior_latents[:0],
        [item.prior_prompts[turn] for item, turn in priors],
    )


def _tensor(values: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
