"""DataModule of captioning: training images in a fixed plan of batches."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.datasets.identities import choose_people
from diffreid_lightning.datasets.stage_datamodule import StageDataModule
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.manifest.manifest import Manifest


class CaptionBatch(NamedTuple):
    """Images of one batch of the plan; B is the batch size."""

    number: int  #: of the batch
    images: list[Image.Image | None]  #: B RGB images at their stored size; None if unreadable
    problems: list[str | None]  #: B reasons why an image cannot be read, else None


class CaptioningDataModule(StageDataModule):
    """Training images of a dataset, for ``predict`` with a captioner.

    Other rows are left out, here and in the output manifest, since models trained on captions must not see query or
    gallery. The output manifest has the whole dataset as its parent.

    Args:
        source: a dataset class, the path of a dataset or manifest, or ``miniperson``.
        with_val: also caption the identities held out in ``val``.
        identities: number of training identities, the first by (source, partition, pid); None takes all.
        batch_size: images per batch.
        num_workers: loader processes.
    """

    def __init__(
        self,
        source: PersonDataset | str = "miniperson",
        with_val: bool = False,
        identities: int | None = None,
        batch_size: int = 32,
        num_workers: int = 1,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_range("data.identities", identities, 1)
        self._source = open_dataset(source)
        self.with_val = with_val
        self.identities = identities

    @cached_property
    def manifest(self) -> Manifest:
        """Manifest of the images to caption.

        Raises:
            UserError: the source has no training images, or too few identities.
        """
        everything = self._source.manifest()
        split, role = np.asarray(everything.numpy("split")), np.asarray(everything.numpy("role"))
        chosen = (split == "train") & (role == "identity")
        if not chosen.any():
            raise UserError(
                "There is no image to caption.",
                looked_for="rows with split 'train'",
                found=f"{everything.root}: {len(everything)} rows, {', '.join(sorted(set(split.tolist()))) or 'none'}",
                remedy="see what is there with: python -m diffreid_lightning data check PATH",
            )
        if self.identities is not None:
            labels, keys = everything.identities()
            present = np.unique(labels[chosen])
            where = f"training images in {everything.root}"
            wanted = choose_people([keys[label] for label in present.tolist()], self.identities, where)
            chosen &= np.isin(labels, present[wanted])
        if self.with_val:
            chosen |= (split == "val") & (role == "identity")
        return everything.filter(chosen).with_parents([everything.content_hash])

    def load(self, number: int, rows: range) -> CaptionBatch:
        """Read one batch."""
        names = self.manifest.table["file_name"].slice(rows.start, len(rows)).to_pylist()
        read = [self.manifest.images.image_or_reason(name) for name in names]
        return CaptionBatch(number, [image for image, _ in read], [reason for _, reason in read])
