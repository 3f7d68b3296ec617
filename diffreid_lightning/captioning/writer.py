"""What captioning leaves behind: the manifest with captions, and with what an identity's captions agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.callbacks.manifest_writer import ManifestWriter
from diffreid_lightning.captioning.consensus import find_consensus
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest


class CaptionWriter(ManifestWriter):
    """Write the captioned rows, and no others, as a manifest.

    It adds ``caption`` (null where the image could not be read), ``caption_problem`` (the reason, else null),
    ``description`` (the words on which the captions of the row's identity agree; the same in all its rows) and
    ``circumstances`` (view, pose, place and light in this image; may be "").

    Args:
        folder: where the manifest is written (its images stay where they are).
        agreement: share of an identity's captions, 0 to 1, which more than must have a word for it to be in the
            description; 0.5 is a majority.
    """

    def __init__(self, folder: str, agreement: float = 0.5) -> None:
        super().__init__(folder)
        if not 0 <= agreement <= 1:
            raise UserError(f"CaptionWriter's agreement is {agreement}.", looked_for="a share from 0 to 1")
        self.agreement = agreement

    @property
    def cache_key(self) -> dict[str, Any]:
        """The share that must agree, which the descriptions follow from."""
        return {"agreement": self.agreement}

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Add captions, descriptions and circumstances."""
        captions = np.asarray(rows["caption"].to_pylist(), dtype=object)
        labels, keys = read.identities()
        descriptions = np.empty(len(read), dtype=object)
        circumstances = np.empty(len(read), dtype=object)
        order = np.argsort(labels, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            agreed = find_consensus(captions[members].tolist(), self.agreement)
            descriptions[members] = agreed.description
            circumstances[members] = agreed.circumstances
        unread = rows["caption_problem"].length() - rows["caption_problem"].null_count
        if unread:
            rank_zero_info(f"{unread} of {len(read)} images have no caption; the column caption_problem says why")
        rank_zero_info(f"{len(keys)} identities described")
        words = {"description": descriptions.tolist(), "circumstances": circumstances.tolist()}
        captioned = super().result(read, rows).with_columns(words)
        return captioned.with_parents(read.parents)
