"""Rendered pictures with the words that describe them, augmented on the device."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from diffreid_lightning.captioning.attribute_network import SIZE, Values, mirrored_order
from diffreid_lightning.datasets.samplers import Draw
from diffreid_lightning.errors import check_range
from diffreid_lightning.manifest.manifest import Manifest
from tools.reader import augment
from tools.reader.labels import UNKNOWN, known_words, number_words
from tools.tiny_sd.datamodules import ManifestImages, Source, SplitRows

#: attributes that belong to the part of a person below the waist
_BELOW = ("lower", "lower_color", "lower_pattern", "shoes", "shoe_color")
#: attributes of the part above it, whoever the legs belong to
_ABOVE = ("hair", "hair_color", "upper", "upper_color", "upper_pattern", "hat")


class DescribedImages(NamedTuple):
    """Pictures and what they show; B is the batch size."""

    images: Tensor  #: (B, 3, H, W): uint8 from the loader, float in 0..1 once on the device
    targets: Tensor  #: (B, A) int64, the number of each attribute's word; -100 where it cannot be seen
    seeds: Tensor  #: (B,) int64, the draws' seeds


class _DescribedRows(Dataset[DescribedImages]):
    """Pictures of a manifest by row number, with their targets."""

    def __init__(self, manifest: Manifest, values: Values) -> None:
        self._images = ManifestImages(manifest, SIZE)
        self._targets = number_words(manifest, values)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, item: int | Draw) -> DescribedImages:
        draw = item if isinstance(item, Draw) else Draw(item, item)
        return DescribedImages(self._images[draw.row].images, self._targets[draw.row], torch.tensor(draw.seed))


class DescribedImagesDataModule(SplitRows):
    """Train on the ``train`` rows of a rendered corpus and measure on its ``val`` rows.

    Half of the training images are mirrored (left and right change names); some get the legs of another person, so that
    the colors of upper and lower garment tell nothing of each other; all are shifted and change their light a little,
    and in some a rectangle is covered.

    Args:
        source: a rendered corpus: a dataset class or the path of its manifest.
        batch_size: images per batch and process.
        joined: probability of another person's legs, 0 to 1.
        light: brightness and contrast change by a factor of up to 1 ± this, 0 to 1.
        tint: the same for each color channel.
        erasing: probability of a covered rectangle, 0 to 1.
        num_workers: loader processes.
        seed: seed of order and augmentation; the command line takes ``seed_everything`` unless this is written.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 96,
        joined: float = 0.3,
        light: float = 0.2,
        tint: float = 0.05,
        erasing: float = 0.2,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(source, SIZE, batch_size, num_workers, seed)
        for name, value in (("joined", joined), ("light", light), ("tint", tint), ("erasing", erasing)):
            check_range(f"data.{name}", value, 0, 1)
        self.joined, self.light, self.tint, self.erasing = joined, light, tint, erasing

    @cached_property
    def values(self) -> Values:
        """The words of each attribute in the training rows."""
        return known_words(self.rows("train"))

    def train_dataloader(self) -> DataLoader[DescribedImages]:
        """Every training image once an epoch."""
        return self._loader(_DescribedRows(self.rows("train"), self.values), training=True)

    def val_dataloader(self) -> DataLoader[DescribedImages] | list[Any]:
        """Images of ``val``, where there are any."""
        rows = self.rows("val")
        return self._loader(_DescribedRows(rows, self.values), training=False) if len(rows) else []

    def on_after_batch_transfer(self, batch: DescribedImages, dataloader_idx: int) -> DescribedImages:
        """Turn bytes into floats on the device, and augment training batches by the seed of their first draw."""
        images = batch.images.float().div_(255)
        if self.trainer is None or not self.trainer.training:
            return batch._replace(images=images)
        generator = Generator().manual_seed(int(batch.seeds[0]))
        images, mirrored = augment.shift_and_mirror(images, 6, generator)
        targets = mirror_targets(batch.targets, mirrored.to(batch.targets.device), self.values)
        images, targets = join_people(images, targets, self.joined, list(self.values), generator)
        images = augment.tone(images, self.light, self.tint, generator)
        return batch._replace(images=augment.erase(images, self.erasing, generator, largest=0.4), targets=targets)


def mirror_targets(targets: Tensor, mirrored: Tensor, values: Values) -> Tensor:
    """Give the targets of mirrored images the words with left and right exchanged.

    Args:
        targets: (B, A) int64.
        mirrored: (B,) bool.
        values: the words of the A attributes.
    """
    turned = targets.clone()
    for place, words in enumerate(values.values()):
        order = torch.tensor(mirrored_order(words), device=targets.device)
        column = targets[:, place]
        changed = torch.where(column == UNKNOWN, column, order[column.clamp(min=0)])
        turned[:, place] = torch.where(mirrored, changed, column)
    return turned


def join_people(
    images: Tensor, targets: Tensor, share: float, names: list[str], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Give some people the legs of others, with what is said of them; of the rest, only the upper part stays known.

    Args:
        images: (B, 3, 128, 64).
        targets: (B, A) int64.
        share: probability of other legs, 0 to 1.
        names: of the A attributes.
        generator: source of the draws, on the CPU.
    """
    count, device = len(images), images.device
    joined = augment.choose(count, share, generator)
    partners = torch.randperm(count, generator=generator)
    cuts = torch.randint(56, 67, (count,), generator=generator)  # about the waist
    images = augment.replace_where(joined, augment.join(images, images[partners.to(device)], cuts), images)
    joined, partners = joined.to(targets.device), partners.to(targets.device)
    mixed = targets.clone()
    for place, name in enumerate(names):
        if name in _BELOW:
            mixed[:, place] = torch.where(joined, targets[partners, place], targets[:, place])
        elif name not in _ABOVE:
            mixed[joined, place] = UNKNOWN
    return images, mixed
