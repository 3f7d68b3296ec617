"""DataModule of scoring: all rows of a manifest in a fixed plan of batches."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.datasets.stage_datamodule import StageDataModule
from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.errors import UserError, check_image_size
from diffreid_lightning.manifest.manifest import Manifest


class ScoringBatch(NamedTuple):
    """Images with their intended identities; B is the batch size."""

    number: int  #: of the batch in the plan
    images: Tensor  #: (B, 3, H, W): uint8 from the loader, float in 0..1 once on the device; zeros where unreadable
    identities: list[IdentityKey]  #: B keys
    problems: list[str | None]  #: reason if an image cannot be read


class ScoringDataModule(StageDataModule):
    """The rows of a manifest for ``predict`` with a :class:`~diffreid_lightning.filtering.scorer.ReIDScorer`.

    Args:
        source: a manifest (usually of generated images), or any dataset.
        image_size: height and width in pixels, as in the scorer's training.
        batch_size: images per batch.
        num_workers: loader processes.
    """

    def __init__(
        self,
        source: PersonDataset | str,
        image_size: tuple[int, int] = (256, 128),
        batch_size: int = 128,
        num_workers: int = 1,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_image_size("data.image_size", image_size)
        self._source = open_dataset(source)
        self.image_size = (int(image_size[0]), int(image_size[1]))

    @cached_property
    def manifest(self) -> Manifest:
        """Manifest of the images to score.

        Raises:
            UserError: the source has no image.
        """
        read = self._source.manifest()
        if not len(read):
            raise UserError(
                "There is no image to score.",
                looked_for="at least one row",
                found=f"a manifest without rows at {read.root}",
                remedy="generate images first: python -m diffreid_lightning predict --config stages/generate",
            )
        return read

    def load(self, number: int, rows: range) -> ScoringBatch:
        """Read one batch."""
        part = self.manifest.table.slice(rows.start, len(rows)).select(["file_name", "source", "partition", "pid"])
        images = torch.zeros(len(rows), 3, *self.image_size, dtype=torch.uint8)
        identities: list[IdentityKey] = []
        problems: list[str | None] = []
        for place, row in enumerate(part.to_pylist()):
            identities.append((row["source"], row["partition"], row["pid"]))
            image, problem = self.manifest.images.image_or_reason(row["file_name"])
            problems.append(problem)
            if image is not None:
                images[place] = evaluation_view(image, self.image_size)
        return ScoringBatch(number, images, identities, problems)

    def on_after_batch_transfer(self, batch: ScoringBatch, dataloader_idx: int) -> ScoringBatch:
        """Turn bytes into floats on the device."""
        return batch._replace(images=batch.images.float().div_(255))
