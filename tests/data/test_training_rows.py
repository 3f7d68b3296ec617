"""Which rows are the same training set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from diffreid_lightning.data.training_rows import KEY, digest_rows, refuse_other_rows
from diffreid_lightning.errors import UserError

PEOPLE = [("a", "train", 1), ("a", "train", 2)]
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
