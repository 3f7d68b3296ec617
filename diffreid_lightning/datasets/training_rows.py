"""Compare a checkpoint's training rows with the data: their digest, and their identities or images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from diffreid_lightning.datasets.concat import ConcatRows
from diffreid_lightning.errors import UserError

#: key of the digest in a checkpoint
KEY = "training_rows"
#: key of the training identities in a checkpoint
IDENTITIES = "training_identities"
#: key of the images that were trained on without their identities
IMAGES = "training_images"
#: key of the digest of a labeled source that was trained on beside them
SOURCE = "source_rows"


def digest_rows(
    identities: Iterable[tuple[str, str, int]], labels: npt.NDArray[np.int64], file_names: pa.Array | pa.ChunkedArray
) -> str:
    """Hash the identity of each label, the rows' labels and their file names; not the image roots or the pixels.

    Args:
        identities: the (source, partition, pid) of each label.
        labels: (N,) label of each row.
        file_names: (N,) names of the images inside their roots.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps([list(key) for key in identities]).encode())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    digest.update("\0".join(file_names.to_pylist()).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hash_images(rows: ConcatRows) -> npt.NDArray[np.int64]:
    """Hash the source and the file name of each row, which tell nothing of who is on it.

    Returns:
        (N,) numbers, the first eight bytes of SHA-256.
    """
    sources = (rows.identities[label][0] for label in rows.labels.tolist())
    names = zip(sources, rows.file_names.to_pylist(), strict=True)
    texts = (f"{source}\0{name}".encode("utf-8", "surrogateescape") for source, name in names)
    return np.frombuffer(b"".join(hashlib.sha256(text).digest()[:8] for text in texts), dtype="<i8").astype(np.int64)


def hash_identities(identities: Iterable[Sequence[str | int]]) -> list[str]:
    """Hash (source, partition, pid) keys, so that a published network names nobody of its training set.

    Returns:
        16 hexadecimal digits for each.
    """
    return [hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:16] for key in identities]


def warn_of_seen(trained: Collection[str], init_from: str | None, validated: ConcatRows) -> None:
    """Warn where initial weights were trained on people who are held out for validation.

    Args:
        trained: hashes of the people behind the weights, by :func:`hash_identities`.
        init_from: the weights.
        validated: the validation data.
    """
    known = set(trained)
    seen = sum(each in known for each in hash_identities(validated.identities))
    if seen:
        rank_zero_warn(
            f"{init_from} was trained on {seen} of the {len(validated.identities)} people who are held out for "
            "validation, so val/mAP is that of people it has seen. Give --data.val_share and --seed_everything as in "
            "its training, or hold these people out there."
        )


def refuse_other_rows(
    checkpoint: Mapping[str, Any], digest: str | None, learned: str, remedy: str, key: str = KEY
) -> None:
    """Refuse to resume on other training rows, since rows of the weights belong to identities.

    Args:
        checkpoint: a Lightning checkpoint; one without a digest passes.
        digest: of the current training rows; None if the data have none.
        learned: the weights that belong to identities, for the message.
        remedy: how to train on other rows.
        key: of the digest in the checkpoint.

    Raises:
        UserError: the digests differ.
    """
    earlier = checkpoint.get(key)
    if earlier is not None and digest is not None and earlier != digest:
        raise UserError(
            "The checkpoint belongs to other training data.",
            looked_for=f"the images and identities that its {learned} was trained on",
            found="others, with as many identities, or the same in another order",
            remedy="give --data and --seed_everything (which chooses the held-out identities) as in the run's "
            f"config.yaml; {remedy}",
        )


def refuse_seen(checkpoint: Mapping[str, Any], validated: ConcatRows) -> None:
    """Refuse to validate on people that the checkpoint was trained on.

    Args:
        checkpoint: a Lightning checkpoint; one that tells neither identities nor images passes.
        validated: the validation data.

    Raises:
        UserError: some of their identities were trained on, or some of their images without identities.
    """
    trained = {tuple(key) for key in checkpoint.get(IDENTITIES, ())}
    seen, of, what = sum(key in trained for key in validated.identities), len(validated.identities), "identities"
    images = checkpoint.get(IMAGES)
    if not seen and images is not None:
        seen, of = int(np.isin(hash_images(validated), images.cpu().numpy()).sum()), len(validated)
        what = "images"
    if seen:
        raise UserError(
            f"The checkpoint was trained on {seen} of the {of} validation {what}.",
            looked_for="the identities that were held out of its training",
            found="others; the training data, data.val_share and data.seed choose them",
            remedy="give --data, --data.val_share and --seed_everything as in the run's config.yaml",
        )
