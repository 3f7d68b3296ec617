"""DataModules of the diffusion side: images for the autoencoder, captioned latents for the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.samplers import Draw, ShuffledRows
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.diffusion.latent_cache import LatentStore
from diffreid_lightning.errors import (
    UserError,
    check_image_size,
    check_range,
    check_seed,
    check_workers,
)
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.training.trainer_parts import start_at_epoch
from tools.miniperson.captions import CaptionSource, ManifestCaptions
from tools.tiny_sd.caption_reading import MOST_VALUES

Source = PersonDataset | str


class ImageBatch(NamedTuple):
    """Images alone; B is the batch size."""

    images: Tensor  #: (B, 3, H, W): uint8 from the loader, float in 0..1 once on the device


class CaptionedLatents(NamedTuple):
    """Encoded images with their captions; B is the batch size."""

    moments: Tensor  #: (B, 2C, h, w) mean and log-variance of the autoencoder's posterior, unscaled
    captions: list[str]  #: B texts
    seeds: Tensor  #: (B,) int64, the draw's own seed
    attributes: Tensor  #: (B, A) int64, the number of each attribute's value among all values; -1 where it has none


class ManifestImages(Dataset[ImageBatch]):
    """Images of a manifest by row number, as they are or mirrored by the seed of a :class:`~.samplers.Draw`.

    Args:
        manifest: the rows.
        image_size: height and width in pixels.
        flip: chance of a mirrored image in training.
    """

    def __init__(self, manifest: Manifest, image_size: tuple[int, int], flip: float = 0.0) -> None:
        self.manifest = manifest
        self.image_size = image_size
        self.flip = flip
        self._names = manifest.table["file_name"]

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, item: int | Draw) -> ImageBatch:
        row = item.row if isinstance(item, Draw) else item
        view = evaluation_view(self.manifest.images.image(self._names[row].as_py()), self.image_size)
        if isinstance(item, Draw) and np.random.default_rng(item.seed).random() < self.flip:
            view = view.flip(-1)
        return ImageBatch(view)


class _CaptionedRows(Dataset[CaptionedLatents]):
    """Latents by row number; the draw's seed phrases the caption."""

    def __init__(
        self, manifest: Manifest, latents: np.ndarray[Any, Any], captions: CaptionSource, attributes: Tensor
    ) -> None:
        self.latents = latents
        self.captions = captions
        self.attributes = attributes
        self._columns = {name: manifest.table[name] for name in captions.columns}

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, item: int | Draw) -> CaptionedLatents:
        draw = item if isinstance(item, Draw) else Draw(item, item)
        row = {name: column[draw.row].as_py() for name, column in self._columns.items()}
        caption = self.captions(row, np.random.default_rng([draw.seed, 1]))
        moments = torch.from_numpy(np.asarray(self.latents[draw.row], dtype=np.float32))
        return CaptionedLatents(moments, [caption], torch.tensor(draw.seed), self.attributes[draw.row])


def collate_captioned(items: list[CaptionedLatents]) -> CaptionedLatents:
    """Stack rows to a batch."""
    return CaptionedLatents(
        torch.stack([item.moments for item in items]),
        [caption for item in items for caption in item.captions],
        torch.stack([item.seeds for item in items]),
        torch.stack([item.attributes for item in items]),
    )


def number_values(rows: Manifest, columns: Sequence[str], known: Manifest) -> Tensor:
    """Number the values of attribute columns.

    Args:
        rows: the images.
        columns: A columns of the manifest.
        known: rows whose sorted values are counted from 0.

    Returns:
        (N, A) int64; -1 where a value is missing, or not among the known ones.

    Raises:
        UserError: the manifest has no such column, or it has more than 64 values.
    """
    numbers = torch.full((len(rows), len(columns)), -1, dtype=torch.int64)
    for place, name in enumerate(columns):
        if name not in rows.columns:
            raise UserError(
                f"The manifest has no column {name!r} to read from captions.",
                looked_for="the columns in data.attributes",
                found=", ".join(rows.columns),
                remedy="name others, or none: --data.attributes []",
            )
        values = sorted(set(known.table[name].to_pylist()) - {None})
        if len(values) > MOST_VALUES:
            raise UserError(
                f"The column {name!r} has {len(values)} values.",
                looked_for=f"at most {MOST_VALUES}",
                found=str(known.root),
                remedy="leave it out of data.attributes",
            )
        number = {value: index for index, value in enumerate(values)}
        numbers[:, place] = torch.tensor([number.get(value, -1) for value in rows.table[name].to_pylist()])
    return numbers


class SplitRows(LightningDataModule):
    """One source, trained on its ``train`` rows and watched on its ``val`` rows.

    Args:
        source: a dataset class, the path of a dataset or manifest, or ``miniperson``.
        image_size: height and width in pixels.
        batch_size: images per batch and process.
        num_workers: loader processes.
        seed: seed of order and augmentation; the command line takes ``seed_everything`` unless this is written.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self, source: Source, image_size: tuple[int, int], batch_size: int, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        check_image_size("data.image_size", image_size)
        check_seed("data.seed", seed)
        check_range("data.batch_size", batch_size, 1)
        check_workers("data.num_workers", num_workers)
        self._source = open_dataset(source)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    @cached_property
    def manifest(self) -> Manifest:
        """All rows of the source."""
        return self._source.manifest()

    def rows(self, split: str) -> Manifest:
        """Return the rows of a split.

        Raises:
            UserError: there is none in ``train``.
        """
        chosen = self.manifest.filter(np.asarray(self.manifest.numpy("split") == split))
        if not len(chosen) and split == "train":
            raise UserError(
                "There is no image in the train split.",
                looked_for="rows with split 'train'",
                found=str(self.manifest.root),
                remedy="see what is there with: python -m diffreid_lightning data check PATH",
            )
        return chosen

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the rows that were trained on, for provenance."""
        return {"manifest": self.manifest.content_hash, "images": len(self.rows("train")), "seed": self.seed}

    def _loader(self, images: Dataset[Any], training: bool, **kwargs: Any) -> DataLoader[Any]:
        shuffled = ShuffledRows(len(images), self.batch_size, self.seed) if training else None  # type: ignore[arg-type]
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=None if shuffled is None else start_at_epoch(shuffled, self.trainer),
            drop_last=training,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
            **kwargs,
        )


class ImageDataModule(SplitRows):
    """Images without labels, for the autoencoder.

    Args:
        source: a dataset class, the path of a dataset or manifest, or ``miniperson``.
        image_size: height and width in pixels.
        batch_size: images per batch and process.
        flip: chance of a mirrored training image.
        num_workers: loader processes.
        seed: seed of order and augmentation; the command line takes ``seed_everything`` unless this is written.
    """

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int] = (256, 128),
        batch_size: int = 16,
        flip: float = 0.5,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(source, image_size, batch_size, num_workers, seed)
        check_range("data.flip", flip, 0, 1)
        self.flip = flip

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Every training image once an epoch."""
        return self._loader(ManifestImages(self.rows("train"), self.image_size, self.flip), training=True)

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[Any]:
        """Images of ``val``, where there are any."""
        rows = self.rows("val")
        return self._loader(ManifestImages(rows, self.image_size), training=False) if len(rows) else []

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Turn bytes into floats on the device."""
        return ImageBatch(batch.images.float().div_(255))


class CaptionedLatentsDataModule(SplitRows):
    """Captioned images for the denoiser, encoded once by a frozen autoencoder.

    The latents are kept in a file that is named by the content of images and autoencoder, so that every later run
    reads them.

    Args:
        source: a dataset class, the path of a dataset or manifest, or ``miniperson``.
        autoencoder: folder of the autoencoder that encodes the images.
        captions: what an image is called; None takes the manifest's caption.
        attributes: columns of the manifest whose values are handed on beside the captions.
        image_size: height and width in pixels.
        batch_size: images per batch and process.
        cache_dir: where latents are kept.
        num_workers: loader processes.
        seed: seed of order and captions; the command line takes ``seed_everything`` unless this is written.
    """

    def __init__(
        self,
        source: Source,
        autoencoder: str,
        captions: CaptionSource | None = None,
        attributes: Sequence[str] = (),
        image_size: tuple[int, int] = (256, 128),
        batch_size: int = 32,
        cache_dir: str = "runs/cache/latents",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(source, image_size, batch_size, num_workers, seed)
        self.captions = captions or ManifestCaptions()
        self.attributes = tuple(attributes)
        self.store = LatentStore(autoencoder, cache_dir)

    def prepare_data(self) -> None:
        """Encode what is not encoded yet; on one process."""
        for split in ("train", "val"):
            if len(rows := self.rows(split)):
                self.store.encode(rows, self.image_size)

    def _captioned(self, split: str) -> _CaptionedRows | None:
        rows = self.rows(split)
        if not len(rows):
            return None
        numbers = number_values(rows, self.attributes, self.rows("train"))
        return _CaptionedRows(rows, self.store.open(rows, self.image_size), self.captions, numbers)

    def train_dataloader(self) -> DataLoader[CaptionedLatents]:
        """Every training image once an epoch, under a newly phrased caption."""
        rows = self._captioned("train")
        assert rows is not None
        return self._loader(rows, training=True, collate_fn=collate_captioned)

    def val_dataloader(self) -> DataLoader[CaptionedLatents] | list[Any]:
        """Images of ``val``, where there are any, each under one caption."""
        rows = self._captioned("val")
        return self._loader(rows, training=False, collate_fn=collate_captioned) if rows is not None else []
