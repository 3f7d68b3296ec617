"""Person images, one by one and in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffreid_lightning.datasets.concat import ConcatRows, concatenate
from diffreid_lightning.datasets.holdout import first_per_camera
from diffreid_lightning.datasets.samplers import Draw
from diffreid_lightning.datasets.transforms import TrainView, evaluation_view
from diffreid_lightning.manifest.manifest import Manifest

_LOOK = 5.0  # seconds


class PersonBatch(NamedTuple):
    """A batch of person images; B is the batch size."""

    images: Tensor  #: (B, 3, H, W): uint8 from the loader, float in 0..1 once on the device
    labels: Tensor  #: (B,) int64 identity numbers, class indices in training
    camids: Tensor  #: (B,) int64 camera numbers
    indices: Tensor  #: (B,) int64 rows of the set
    is_query: Tensor  #: (B,) bool, False in training
    weights: Tensor | None = None  #: (B,) float32, how much each image counts in training; None: all alike


class PersonImage(NamedTuple):
    """A row of a set; numbers become tensors once per batch, which takes less time than once per image."""

    image: Tensor  #: (3, H, W) uint8 in 0..255
    label: int
    camid: int
    row: int
    is_query: bool
    weight: float | None = None


def collate_persons(items: list[PersonImage]) -> PersonBatch:
    """Stack images to a batch."""
    images, labels, camids, rows, is_query, weights = zip(*items, strict=True)
    return PersonBatch(
        torch.stack(images),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(camids, dtype=torch.int64),
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor(is_query, dtype=torch.bool),
        None if weights[0] is None else torch.tensor(weights, dtype=torch.float32),
    )


class DecodedImages:
    """Images of a set at their training size, each decoded when it is first asked for and then kept.

    The memory is shared with loader processes, however they are started: N × H × W × 3 bytes, 1.3 GB for
    Market-1501's 12,936 training images at 256 × 128.

    Args:
        rows: the chained rows.
        image_size: height and width in pixels.
    """

    def __init__(self, rows: ConcatRows, image_size: tuple[int, int]) -> None:
        self.rows = rows
        self.image_size = image_size
        self._pixels = torch.empty((len(rows), 3, *image_size), dtype=torch.uint8).share_memory_()
        self._is_known = torch.zeros(len(rows), dtype=torch.bool).share_memory_()

    def image(self, row: int) -> Tensor:
        """Return the evaluation view of a row, (3, H, W) uint8; not to be written to."""
        if not self._is_known[row]:
            # Two processes that decode the same image write the same bytes.
            self._pixels[row] = evaluation_view(self.rows.image(row), self.image_size)
            self._is_known[row] = True
        return self._pixels[row]


class PersonImages(Dataset[PersonImage]):
    """Rows of a chain: evaluation views by row number, training views by :class:`~.samplers.Draw`.

    Args:
        rows: the chained rows.
        image_size: height and width in pixels.
        is_query: (N,) which rows are queries; None for none.
        train_view: how training views are made; None makes evaluation views only.
        weights: (N,) float32, how much each row counts in training; None: all alike.
        decoded: keeps images once they were decoded; None decodes them each time. The views are the same.
    """

    def __init__(
        self,
        rows: ConcatRows,
        image_size: tuple[int, int],
        is_query: npt.NDArray[np.bool_] | None = None,
        train_view: TrainView | None = None,
        weights: npt.NDArray[np.float32] | None = None,
        decoded: DecodedImages | None = None,
    ) -> None:
        self.rows = rows
        self.image_size = image_size
        self.is_query = np.zeros(len(rows), dtype=bool) if is_query is None else is_query
        self.train_view = train_view
        self.weights = weights
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, row: int) -> Image.Image:
        """Return the image of a row as it lies on the disk, for reports."""
        return self.rows.image(row)

    def refuse_broken(self) -> None:
        """Open images in random order for some seconds, since an evaluation comes after hours of training.

        Raises:
            UserError: one of them cannot be read.
        """
        deadline = time.monotonic() + _LOOK
        for row in np.random.default_rng(0).permutation(len(self)).tolist():
            if time.monotonic() > deadline:
                return
            self.picture(row)

    def __getitem__(self, item: int | Draw) -> PersonImage:
        row = item.row if isinstance(item, Draw) else item
        image = self.rows.image(row) if self.decoded is None else self.decoded.image(row)
        if isinstance(item, Draw) and self.train_view is not None:
            view = self.train_view(image, self.image_size, item.seed)
        else:
            view = evaluation_view(image, self.image_size)
        label, camid, is_query = self.rows.labels[row], self.rows.camids[row], self.is_query[row]
        weight = None if self.weights is None else float(self.weights[row])
        return PersonImage(view, int(label), int(camid), int(row), bool(is_query), weight)


def search_among(manifests: Sequence[Manifest], image_size: tuple[int, int]) -> PersonImages | None:
    """Return one image per identity and camera as queries, then all images as gallery.

    Args:
        manifests: the rows.
        image_size: height and width in pixels.

    Returns:
        The images; None where nobody can be searched for.
    """
    queries = [manifest.filter(first_per_camera(manifest)) for manifest in manifests]
    asked = sum(map(len, queries))
    if not asked:
        return None
    rows = concatenate([*queries, *manifests])
    return PersonImages(rows, image_size, is_query=np.arange(len(rows)) < asked)
