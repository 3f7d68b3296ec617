"""Held-out identities: the split on which choices are made, so that query and gallery are read only by ``test``."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.manifest.manifest import Manifest


def hold_out_identities(manifest: Manifest, share: float | None, seed: int) -> npt.NDArray[np.bool_]:
    """Choose the validation rows among a manifest's training rows.

    A manifest that has a ``val`` split of its own keeps it. Otherwise a seeded choice of identities is made among
    those seen by at least two cameras (the others could not be evaluated).

    Args:
        manifest: rows of any splits; only ``train`` and ``val`` rows matter. Distractors of its own ``val`` split are
            validation rows as well: they stand in the gallery.
        share: share of the training identities to hold out, 0 (none: the own ``val`` split is trained on too) to 1;
            None holds out the own ``val`` split and nobody else.
        seed: the choice depends on it and on the sorted identities alone.

    Returns:
        (N,) mask of the validation rows.
    """
    split = np.asarray(manifest.numpy("split"))
    none = np.zeros(len(manifest), dtype=bool)
    if share is not None and share <= 0:
        return none
    if share is None or (split == "val").any():
        return split == "val"
    labels, _ = manifest.identities()
    rows = np.flatnonzero(split == "train")
    seen = np.unique(np.stack([labels[rows], manifest.numpy("camid")[rows]], axis=1), axis=0)
    identities, cameras = np.unique(seen[:, 0], return_counts=True)
    candidates = identities[cameras >= 2]
    count = min(math.ceil(len(identities) * share), len(candidates))
    chosen = np.random.default_rng(seed).choice(candidates, size=count, replace=False) if count else candidates[:0]
    none[rows] = np.isin(labels[rows], chosen)
    return none


def trainable_rows(manifest: Manifest, held_out: Collection[IdentityKey]) -> npt.NDArray[np.bool_]:
    """Mark the rows that may be trained on: train, generated and unused ``val`` rows of identities not held out.

    Generated images of a held-out identity show that identity, so they stay out with it. Distractors are no class.

    Args:
        manifest: rows of any splits.
        held_out: the (source, partition, pid) that validation has.
    """
    labels, keys = manifest.identities()
    barred = np.asarray([key in held_out for key in keys], dtype=bool)
    mask = np.isin(np.asarray(manifest.numpy("split")), ["train", "val", "generated"]) & _shows_somebody(manifest)
    return mask & ~barred[labels] if len(keys) else mask


def first_per_camera(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Mark the first row of every (identity, camera) pair: the queries of a held-out split, as Market-1501 has them.

    Distractors are nobody's images and no query; all of them share a pid, and would be taken for one another's matches.
    """
    labels, _ = manifest.identities()
    rows = np.flatnonzero(_shows_somebody(manifest))
    _, first = np.unique(np.stack([labels, manifest.numpy("camid")], axis=1)[rows], axis=0, return_index=True)
    mask = np.zeros(len(manifest), dtype=bool)
    mask[rows[first]] = True
    return mask


def _shows_somebody(manifest: Manifest) -> npt.NDArray[np.bool_]:
    return np.asarray(manifest.numpy("role") == "identity", dtype=bool)
