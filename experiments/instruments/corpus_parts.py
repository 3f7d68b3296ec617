"""Split a rendered corpus into the identities that classifiers learn from and those they are measured on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest


def holds_out(pids: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose identities at random and mark all their rows.

    Args:
        pids: (N,) identity numbers.
        share: of the identities, 0 to 1; at least one is chosen.
        seed: of the choice.

    Returns:
        (N,) bool.
    """
    known = np.unique(pids)
    chosen = np.random.default_rng(seed).permutation(known)[: max(1, round(share * len(known)))]
    return np.isin(pids, chosen)


def parts_of_world(world: Manifest) -> dict[str, Manifest]:
    """Divide a rendered corpus; rows in which the person is partly hidden are left out.

    Returns:
        ``training``, ``held_out``, one in twenty of the same split's people, and ``val``, the split of that name.

    Raises:
        UserError: one of them is empty.
    """
    split, clear = np.asarray(world.numpy("split"), dtype=str), ~world.numpy("occluded")
    training = split == "train"
    held_out = training.copy()
    held_out[training] = holds_out(world.numpy("pid")[training], 0.05, seed=3)
    masks = {"training": training & ~held_out, "held_out": held_out, "val": split == "val"}
    parts = {name: world.filter(mask & clear) for name, mask in masks.items()}
    for name, rows in parts.items():
        if not len(rows):
            raise UserError(f"{world.root} has no {name} image to train and measure a classifier.")
    return parts
