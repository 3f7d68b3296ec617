"""Check the arguments of the evaluation functions and convert them to the types of the computation."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.metrics.functional.identity_matches import IdentityPairs
from diffreid_lightning.metrics.functional.tiled_matmul import Distance


def check_features(**sets: Tensor) -> tuple[Tensor, ...]:
    """Return sets of features as detached, contiguous float32.

    Args:
        sets: (n, D) each, any floating dtype, of one dimension and on one device; by their names in errors.

    Raises:
        UserError: a set is empty or not a matrix of floats, or dimensions or devices differ.
    """
    for name, features in sets.items():
        if features.ndim != 2 or not features.is_floating_point():
            raise UserError(
                f"{name} must be a matrix of floats, one row per image.",
                found=f"shape {tuple(features.shape)}, {features.dtype}",
            )
        if not features.numel():
            raise UserError(f"{name} is empty.", found=f"shape {tuple(features.shape)}")
    if len({(features.shape[1], features.device) for features in sets.values()}) > 1:
        raise UserError(
            f"{' and '.join(sets)} must share their dimension and device.",
            found=" and ".join(f"{tuple(features.shape)} on {features.device}" for features in sets.values()),
        )
    return tuple(features.detach().float().contiguous() for features in sets.values())


def check_distance(distance: str) -> None:
    """Refuse an unknown distance.

    Raises:
        UserError: ``distance`` is neither ``"cosine"`` nor ``"euclidean"``.
    """
    if distance not in get_args(Distance):
        raise UserError(f"There is no distance {distance!r}.", looked_for=" or ".join(map(repr, get_args(Distance))))


def check_ids(name: str, ids: Tensor, length: int) -> np.ndarray:
    """Return person or camera ids as int64.

    Args:
        name: the argument's name, for the error.
        ids: (length,) integers of any dtype, on any device.
        length: number of images.

    Raises:
        UserError: the ids are not integers, or not one per image.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UserError(f"{name} must be integers.", found=str(ids.dtype))
    if ids.shape != (length,):
        raise UserError(f"{name} must hold one id per image.", looked_for=f"({length},)", found=str(tuple(ids.shape)))
    return ids.detach().cpu().numpy().astype(np.int64)


def cameras_are_known(camids: npt.NDArray[np.int64]) -> bool:
    """Tell whether camera numbers say anything: formats without cameras give all images one, or each its own.

    Args:
        camids: (N,) camera numbers of one split; in another one, copies may share a camera (``images_are_cameras``).
    """
    return 1 < len(np.unique(camids)) < len(camids)


def check_pairs(
    shape: tuple[int, int], query_pids: Tensor, gallery_pids: Tensor, query_camids: Tensor, gallery_camids: Tensor
) -> IdentityPairs:
    """Check and pair the ids of Q queries and G gallery entries.

    Args:
        shape: (Q, G).
        query_pids: (Q,) integers.
        gallery_pids: (G,) integers.
        query_camids: (Q,) integers.
        gallery_camids: (G,) integers.

    Raises:
        UserError: the ids are not integers, or not one per image.
    """
    queries, gallery = shape
    return IdentityPairs(
        check_ids("query_pids", query_pids, queries),
        check_ids("gallery_pids", gallery_pids, gallery),
        check_ids("query_camids", query_camids, queries),
        check_ids("gallery_camids", gallery_camids, gallery),
    )
