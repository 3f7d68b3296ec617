"""Random subsets of the training data: fewer identities (small-scale) or fewer images of each (few-shot).

The settings of Fu et al. (LUPerson, arXiv 2012.03753). For one seed subsets are nested: 10 % is part of 30 %. Only
``train`` rows are dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest


def small_scale(manifest: Manifest, identities: float | int, seed: int) -> npt.NDArray[np.bool_]:
    """Keep all images of some training identities.

    Args:
        manifest: rows of any splits.
        identities: their number (a whole number), or their share, above 0.0 to 1.0.
        seed: the choice depends only on it and on the sorted identities.

    Returns:
        (N,) mask of the kept rows.

    Raises:
        UserError: the number is out of range, or there are fewer identities.
    """
    labels, training = _training(manifest)
    present = np.unique(labels[training])
    # A whole number from the command line may be a float: typing's cache takes int | float for float | int.
    if isinstance(identities, int) or (identities > 1 and identities.is_integer()):
        wanted = int(identities)
    else:
        wanted = max(1, round(_share(identities, "identities") * len(present)))
    if not 0 < wanted <= len(present):
        raise UserError(
            f"{wanted} training identities were requested.",
            looked_for=f"1 to {len(present)}, or a share above 0.0",
            found=f"{len(present)} identities in the train split of {manifest.root}",
        )
    chosen = np.random.default_rng(seed).permutation(present)[:wanted]
    return ~training | np.isin(labels, chosen)


def few_shot(manifest: Manifest, images: float, seed: int) -> npt.NDArray[np.bool_]:
    """Keep some images of every training identity, at least one.

    Args:
        manifest: rows of any splits.
        images: share of each identity's images, above 0.0 to 1.0, rounded to whole images.
        seed: the choice depends only on it and on the sorted file names.

    Returns:
        (N,) mask of the kept rows.

    Raises:
        UserError: the share is out of range.
    """
    share = _share(images, "images")
    labels, training = _training(manifest)
    kept = ~training
    names = np.asarray(manifest.numpy("file_name"), dtype=str)
    rows = np.flatnonzero(training)
    # Sorted by name first, so that the listing order of the disk does not matter.
    by_name = rows[np.argsort(names[rows], kind="stable")]
    shuffled = np.random.default_rng(seed).permutation(by_name)
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[grouped], return_index=True, return_counts=True)
    place = np.arange(len(grouped)) - np.repeat(starts, counts)
    wanted = np.repeat(np.maximum(1, np.rint(share * counts)), counts)
    kept[grouped[place < wanted]] = True
    return kept


def _training(manifest: Manifest) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    labels, _ = manifest.identities()
    return labels, np.asarray(manifest.numpy("split") == "train")


def _share(value: float, what: str) -> float:
    if not 0 < value <= 1:
        raise UserError(f"A subset has a share of {value} of the {what}.", looked_for="a share above 0, up to 1")
    return float(value)
