"""Which rows are the same training set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from diffreid_lightning.datasets.concat import ConcatRows, IdentityKey
from diffreid_lightning.datasets.training_rows import (
    IDENTITIES,
    IMAGES,
    KEY,
    digest_rows,
    hash_identities,
    hash_images,
    refuse_other_rows,
    refuse_seen,
    warn_of_seen,
)
from diffreid_lightning.errors import UserError

PEOPLE: list[IdentityKey] = [("a", "train", 1), ("a", "train", 2)]
LABELS = np.asarray([0, 0, 1])
NAMES = ["x.jpg", "y.jpg", "z.jpg"]
OTHERS = {
    "another person": ([("a", "train", 1), ("a", "train", 3)], LABELS, NAMES),
    "another order": (PEOPLE[::-1], LABELS, NAMES),
    "an image of somebody else": (PEOPLE, np.asarray([0, 1, 1]), NAMES),
    "other images": (PEOPLE, LABELS, ["x.jpg", "y.jpg", "w.jpg"]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_rows_are_refused(other: str) -> None:
    checkpoint = {KEY: digest_rows(PEOPLE, LABELS, pa.array(NAMES))}
    same = digest_rows(iter(PEOPLE), LABELS.astype(np.int32), pa.chunked_array([NAMES[:1], NAMES[1:]]))
    for digest in (same, None):
        refuse_other_rows(checkpoint, digest, "classifier", "start anew")
    people, labels, names = OTHERS[other]
    digest = digest_rows(people, labels, pa.array(names))
    refuse_other_rows({}, digest, "classifier", "start anew")
    with pytest.raises(UserError, match="other training data"):
        refuse_other_rows(checkpoint, digest, "classifier", "start anew")


def rows(people: list[IdentityKey], names: list[str]) -> ConcatRows:
    """Make rows of one image for each person."""
    numbers = np.arange(len(people))
    return ConcatRows((), numbers * 0, pa.array(names), numbers, tuple(people), numbers, numbers, numbers < 0)


def test_weights_that_know_the_held_out_people_are_told(recwarn: pytest.WarningsRecorder) -> None:
    trained = hash_identities(map(list, PEOPLE))
    warn_of_seen(trained, "a/backbone", rows([("a", "train", 3), ("b", "train", 1)], NAMES[:2]))
    warn_of_seen([], None, rows(PEOPLE, NAMES[:2]))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"a/backbone was trained on 1 of the 2 people"):
        warn_of_seen(trained, "a/backbone", rows([("a", "train", 3), PEOPLE[1]], NAMES[:2]))


def test_people_of_the_training_are_no_validation() -> None:
    checkpoint = {IDENTITIES: [list(key) for key in PEOPLE]}
    others: list[IdentityKey] = [("a", "train", 3), ("b", "train", 1)]
    refuse_seen(checkpoint, rows(others, NAMES[:2]))
    refuse_seen({}, rows(PEOPLE, NAMES[:2]))
    with pytest.raises(UserError, match="1 of the 3 validation identities"):
        refuse_seen(checkpoint, rows([*others, PEOPLE[1]], NAMES))


def test_images_of_the_training_are_no_validation_where_nobody_has_named_their_people() -> None:
    checkpoint = {IMAGES: torch.from_numpy(hash_images(rows(PEOPLE, ["x.jpg", "y.jpg"])))}
    nameless: list[IdentityKey] = [("a", "train", 3), ("a", "train", 4)]
    refuse_seen(checkpoint, rows(nameless, ["v.jpg", "w.jpg"]))
    refuse_seen(checkpoint, rows([("b", "train", 3), ("b", "train", 4)], ["x.jpg", "y.jpg"]))
    with pytest.raises(UserError, match="1 of the 2 validation images"):
        refuse_seen(checkpoint, rows(nameless, ["v.jpg", "y.jpg"]))
