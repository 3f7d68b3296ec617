"""The real people whom a table is made for, captioned as stage 1 captions them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch import Callback, Trainer

from diffreid_lightning.captioning.color_captioner import ColorCaptioner
from diffreid_lightning.captioning.datamodule import CaptioningDataModule
from diffreid_lightning.captioning.writer import CaptionWriter
from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from experiments.instruments.pictures import content_key

_WORDS = ("caption", "description", "circumstances")


def quiet_trainer(callbacks: list[Callback], **settings: Any) -> Trainer:
    """A trainer on one device that leaves nothing behind but what its callbacks write."""
    return Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **settings,
    )


def choose_people(everybody: Manifest, split: str, identities: int | None) -> Manifest:
    """Take the first people of a split and let them be the training people.

    Args:
        everybody: a dataset.
        split: ``train``, or ``val`` to choose settings on people whom no table is about.
        identities: how many of them; None takes all.

    Raises:
        UserError: there are not so many.
    """
    mask = (everybody.numpy("split") == split) & (everybody.numpy("role") == "identity")
    rows = everybody.filter(np.asarray(mask, dtype=bool))
    labels, keys = rows.identities()
    count = len(keys) if identities is None else identities
    if not 1 <= count <= len(keys):
        raise UserError(f"There are not {count} people.", looked_for=f"1 to {len(keys)} of split {split!r}")
    return rows.filter(labels < count).with_columns({"split": "train"}).with_parents([everybody.content_hash])


def number_people(rows: Manifest, known: Sequence[IdentityKey]) -> npt.NDArray[np.int64]:
    """Number the person of each of N rows, (N,), by the place among those that a scorer knows.

    Raises:
        UserError: the scorer does not know somebody.
    """
    numbers = {key: number for number, key in enumerate(known)}
    own, keys = rows.identities()
    strangers = [str(key) for key in keys if key not in numbers]
    if strangers:
        raise UserError(
            f"The scorer does not know {len(strangers)} of the {len(keys)} people of {rows.root}",
            looked_for="a scorer that was trained on all of them",
            found=f"strangers: {shorten(strangers, 3)}",
            remedy="give the scorer of a chain over these people",
        )
    found: npt.NDArray[np.int64] = np.array([numbers[key] for key in keys], dtype=np.int64)[own]
    return found


def caption_people(rows: Manifest, work: Path) -> Manifest:
    """Caption people by the default captioner, or read what was captioned before.

    Args:
        rows: their images.
        work: folder where the manifests are kept, under the content of the rows.
    """
    folder = work / f"people-{content_key(rows.content_hash)}"
    captioned = folder / "captioned"
    if not (captioned / FILE_NAME).exists():
        rows.write(folder)
        data = CaptioningDataModule(str(folder), batch_size=64, num_workers=0)
        trainer = quiet_trainer([CaptionWriter(str(captioned))])
        trainer.predict(ColorCaptioner(), datamodule=data, return_predictions=False)
    return Manifest.read(captioned)


def without_words(captioned: Manifest, work: Path) -> Manifest:
    """Write the same people without captions and what follows from them, and read them back."""
    folder = work / f"people-{content_key(captioned.content_hash)}" / "wordless"
    if not (folder / FILE_NAME).exists():
        captioned.with_columns(dict.fromkeys(_WORDS)).write(folder)
    return Manifest.read(folder)
