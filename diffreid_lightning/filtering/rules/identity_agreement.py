"""Drop identities whose generated images do not show one person, or show another identity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from diffreid_lightning.errors import check_range
from diffreid_lightning.filtering.rules.base import Selection, SelectionRule
from diffreid_lightning.filtering.scored_manifest import NEAREST_LABEL, label_text


class IdentityAgreement(SelectionRule):
    """Drop an identity as a whole if its generated images disagree, and list it to be generated again.

    An image agrees if the other generated images of its own label are nearer to it than those of any other label. All
    scored images of an identity count, also those dropped by earlier rules. An identity with one image is kept: nothing
    can agree with it.

    Args:
        share: share of an identity's images that must agree, 0 to 1. Whatever it is, an identity is dropped if more of
            its images are nearest to one other identity than to itself.
    """

    def __init__(self, share: float = 0.5) -> None:
        check_range("IdentityAgreement.share", share, 0, 1)
        self.share = share

    def apply(self, selection: Selection) -> None:
        """Drop the identities and note them in ``selection.regenerate``."""
        images, agree, rival, rivals = count_agreement(selection)
        taken = rivals > agree
        mixed = (images > 0) & (agree / np.maximum(images, 1) < self.share)  # share * images rounds off the limit
        for label in np.flatnonzero(taken | mixed).tolist():
            words = f"{agree[label]} of {images[label]} images agree"
            if rivals[label]:
                words += f", nearest to {label_text(selection.identities[rival[label]])}: {rivals[label]}"
            selection.regenerate[label] = words
        selection.drop(taken[selection.labels], "more of its identity's images are nearest to one other identity")
        selection.drop(mixed[selection.labels], f"less than {100 * self.share:g} % of its identity's images agree")


def count_agreement(selection: Selection) -> tuple[npt.NDArray[np.int64], ...]:
    """Count the images of each of C identities that are nearest to it, and those of its largest rival.

    Returns:
        (C,) images that have a nearest label; those nearest to their own; the other identity with most of the rest, the
        first of equals; and its images. 0 for identities without a rival.

    Raises:
        UserError: the manifest has no nearest labels.
    """
    selection.require_column(NEAREST_LABEL)
    count = len(selection.identities)
    numbers = {label_text(key): label for label, key in enumerate(selection.identities)}
    coded = pc.dictionary_encode(selection.manifest.table[NEAREST_LABEL]).combine_chunks()
    known = np.array([*(numbers.get(text, -1) for text in coded.dictionary.to_pylist()), -1], dtype=np.int64)
    nearest = known[np.asarray(pc.fill_null(coded.indices, len(coded.dictionary)))]
    own = nearest == selection.labels
    has_nearest = np.asarray(pc.is_valid(coded))
    images = np.bincount(selection.labels[has_nearest], minlength=count)
    agree = np.bincount(selection.labels[own], minlength=count)
    rows = ~own & (nearest >= 0)
    pairs, sizes = np.unique(selection.labels[rows] * count + nearest[rows], return_counts=True)
    rival, rivals = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    order = np.lexsort((-pairs, sizes))  # of an identity's pairs the last one stays: the most images, the first label
    rival[pairs[order] // count], rivals[pairs[order] // count] = pairs[order] % count, sizes[order]
    return images, agree, rival, rivals
