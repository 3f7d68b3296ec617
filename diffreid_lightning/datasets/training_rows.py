"""Digest and identities of the rows a network is trained on, which its checkpoints keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffreid_lightning.errors import UserError

#: where a checkpoint keeps the digest
KEY = "training_rows"
#: where a checkpoint keeps the identities that were trained on
IDENTITIES = "training_identities"


def digest_rows(
    identities: Iterable[tuple[str, str, int]], labels: npt.NDArray[np.int64], file_names: pa.Array | pa.ChunkedArray
) -> str:
    """Hash who is behind each label, and the names of whose images; not where the images lie, nor what they show.

    Args:
        identities: the (source, partition, pid) behind each label.
        labels: (N,) label of each row.
        file_names: (N,) names of the images inside their roots.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps([list(key) for key in identities]).encode())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    digest.update("\0".join(file_names.to_pylist()).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def refuse_other_rows(checkpoint: Mapping[str, Any], digest: str | None, learned: str, remedy: str) -> None:
    """Refuse to go on where a row of the weights would stand for somebody else.

    Args:
        checkpoint: a Lightning checkpoint; one without a digest passes.
        digest: of the rows that are trained on now; None where the data have none.
        learned: what of the weights belongs to the identities.
        remedy: what to do for training on other rows.

    Raises:
        UserError: the digests differ.
    """
    begun = checkpoint.get(KEY)
    if begun is not None and digest is not None and begun != digest:
        raise UserError(
            "The checkpoint belongs to other training data.",
            looked_for=f"the images and identities that its {learned} was trained on",
            found="others, though as many identities, or the same in another order",
            remedy="give --data and --seed_everything (it chooses who is held out) as the run was started (its "
            f"config.yaml); {remedy}",
        )


def refuse_seen_identities(checkpoint: Mapping[str, Any], validated: Iterable[tuple[str, str, int]]) -> None:
    """Refuse to validate on identities that the checkpoint was trained on: the result would be too good.

    Args:
        checkpoint: a Lightning checkpoint; one without identities passes.
        validated: the (source, partition, pid) that are validated on.

    Raises:
        UserError: some of them were trained on.
    """
    trained = {tuple(key) for key in checkpoint.get(IDENTITIES, ())}
    validated = list(validated)
    seen = sum(tuple(key) in trained for key in validated)
    if seen:
        raise UserError(
            f"The checkpoint was trained on {seen} of the {len(validated)} identities that it would be validated on.",
            looked_for="the identities that were held out of its training",
            found="other ones: data.train, data.val_share and data.seed choose them",
            remedy="give --data.train, --data.val_share and --seed_everything as the run was started (its config.yaml)",
        )
