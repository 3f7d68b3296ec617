"""Say why nobody is held out of a training for validation."""

from __future__ import annotations

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from diffreid_lightning.reid.datamodule import ReIDDataModule


def why_nobody(data: ReIDDataModule) -> str:
    """Return why nobody is held out, of data whose ``val_set`` is None."""
    if data.val_share == 0:
        return "data.val_share is 0, and no source has a val split that is kept"
    if data.val_share is None:
        return "data.val_share is null, and no source has a val split"
    train = [manifest.filter(np.asarray(manifest.numpy("split")) == "train") for manifest, _ in data._train_manifests]
    cameras = sum(len(np.unique(manifest.numpy("camid"))) for manifest in train)
    return (
        f"data.val_share {data.val_share} holds out nobody: no one in train is seen by two cameras, of {cameras} in all"
    )


def warn_of_nobody(data: ReIDDataModule) -> None:
    """Warn where a share of the people was to be held out, and nobody can be searched for: nothing is validated."""
    if data.val_share and data.val_set is None:
        rank_zero_warn(
            f"There is no validation: {why_nobody(data)}. Give the dataset's cameras (PersonFolder's pattern, or "
            "the column camid of a table), or --data.val_share 0 to train without."
        )


def warn_of_no_epoch(data: ReIDDataModule, obstacle: str | None) -> None:
    """Warn where people are held out of training and never searched for.

    Args:
        data: the data of a fit.
        obstacle: why no validation metric will be measured, or None.
    """
    if data.val_set is not None and obstacle is not None:
        people = len(data.val_set.rows.identities)
        rank_zero_warn(
            f"{people} people are held out of the training and never validated: {obstacle}. Give "
            "--trainer.check_val_every_n_epoch '${trainer.max_epochs}' to validate the last epoch, or "
            "--data.val_share 0 to train on them, too."
        )
