"""Hold out identities for validation, so that query and gallery are read by ``test`` only."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.manifest.manifest import Manifest


def hold_out_identities(manifest: Manifest, share: float | None, seed: int) -> npt.NDArray[np.bool_]:
    """Choose the validation rows of a manifest.

    A manifest with a ``val`` split keeps it. Otherwise identities are drawn among those seen by at least two cameras
    (others cannot be evaluated).

    Args:
        manifest: rows of any splits; only ``train`` and ``val`` rows matter. Distractors of the ``val`` split are
            validation rows too, for the gallery.
        share: share of the training identities to hold out, 0 (none; a ``val`` split is trained on too) to 1; None
            holds out the ``val`` split only.
        seed: the choice depends only on it and on the sorted identities.

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
    """Select the training rows: train, generated and unused ``val`` rows of identities that are not held out.

    Generated images of a held-out identity are excluded with it, and distractors always.

    Args:
        manifest: rows of any splits.
        held_out: the (source, partition, pid) used for validation.
    """
    labels, keys = manifest.identities()
    barred = np.asarray([key in held_out for key in keys], dtype=bool)
    mask = np.isin(np.asarray(manifest.numpy("split")), ["train", "val", "generated"]) & _has_identity(manifest)
    return mask & ~barred[labels] if len(keys) else mask


def first_per_camera(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Select the first row of every (identity, camera) pair: the queries of a held-out split, as in Market-1501.

    Distractors are excluded: they share one pid and would match each other.
    """
    labels, _ = manifest.identities()
    rows = np.flatnonzero(_has_identity(manifest))
    _, first = np.unique(np.stack([labels, manifest.numpy("camid")], axis=1)[rows], axis=0, return_index=True)
    mask = np.zeros(len(manifest), dtype=bool)
    mask[rows[first]] = True
    return mask


def _has_identity(manifest: Manifest) -> npt.NDArray[np.bool_]:
    return np.asarray(manifest.numpy("role") == "identity", dtype=bool)
