"""Base of the captioners: a module whose ``predict`` captions batches of images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch import LightningModule
from PIL import Image

from diffreid_lightning.captioning.datamodule import CaptionBatch
from diffreid_lightning.datasets.stage_datamodule import StageRows
from diffreid_lightning.storage.content_hash import add_content

CAPTION, PROBLEM = "caption", "caption_problem"
_SMALLEST = (8, 4)  # minimum height and width in pixels


class Captioner(LightningModule, ABC):
    """Base of the captioners, given in YAML by class path.

    A subclass implements ``captions`` and, if its captions depend on settings, ``cache_key``. An image's caption must
    not depend on the rest of the batch.
    """

    @abstractmethod
    def captions(self, images: list[Image.Image]) -> list[str]:
        """Caption images.

        Args:
            images: RGB person crops of any sizes, at least one.

        Returns:
            One caption for each: plain words, without a line break.
        """

    @property
    def cache_key(self) -> dict[str, Any]:
        """Settings that determine the captions, besides the images, as plain JSON values."""
        return {"captioner": f"{type(self).__module__}.{type(self).__qualname__}"}

    def predict_step(self, batch: CaptionBatch, batch_idx: int) -> StageRows:
        """Caption a batch; an unreadable image gets a reason instead of a caption."""
        problems = [
            problem or (_too_small(image) if image is not None else None)
            for image, problem in zip(batch.images, batch.problems, strict=True)
        ]
        readable = [
            image for image, problem in zip(batch.images, problems, strict=True) if image is not None and not problem
        ]
        texts = iter(self.captions(readable) if readable else [])
        captions = [None if problem else next(texts) for problem in problems]
        columns = {CAPTION: pa.array(captions, pa.string()), PROBLEM: pa.array(problems, pa.string())}
        return StageRows(batch.number, pa.table(columns))


def hash_files(files: Iterable[Path]) -> str:
    """Hash the files of a model, by name and content, in the order of their paths: SHA-256, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode())
        add_content(digest, file)
    return digest.hexdigest()


def _too_small(image: Image.Image) -> str | None:
    width, height = image.size
    if height >= _SMALLEST[0] and width >= _SMALLEST[1]:
        return None
    return f"too small: {width}x{height} pixels, at least {_SMALLEST[1]}x{_SMALLEST[0]} are needed"
