"""Write the captioned manifest, with the consensus of each identity's captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.callbacks.manifest_writer import ManifestWriter
from diffreid_lightning.captioning.consensus import find_consensus, measure_yield
from diffreid_lightning.errors import check_range
from diffreid_lightning.manifest.manifest import Manifest


class CaptionWriter(ManifestWriter):
    """Write the captioned rows as a manifest.

    It adds ``caption`` (null if the image could not be read), ``caption_problem`` (the reason, else null),
    ``description`` (the consensus of the identity's captions, the same in all its rows) and ``circumstances`` (view,
    pose, place and light in this image; may be "").

    Args:
        folder: output folder of the manifest (images are not copied).
        agreement: a word is in the description if more than this share of the identity's captions have it, 0 to 1;
            0.5 is a majority.
    """

    def __init__(self, folder: str, agreement: float = 0.5) -> None:
        super().__init__(folder)
        check_range("CaptionWriter.agreement", agreement, 0, 1)
        self.agreement = agreement

    @property
    def cache_key(self) -> dict[str, Any]:
        """Return the settings that determine the descriptions."""
        return {"agreement": self.agreement}

    def result(self, read: Manifest, rows: pa.Table) -> Manifest:
        """Add captions, descriptions and circumstances."""
        captions = np.asarray(rows["caption"].to_pylist(), dtype=object)
        labels, keys = read.identities()
        descriptions = np.empty(len(read), dtype=object)
        circumstances = np.empty(len(read), dtype=object)
        order, described = np.argsort(labels, kind="stable"), []
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            agreed = find_consensus(captions[members].tolist(), self.agreement)
            described.append(agreed)
            descriptions[members] = agreed.description
            circumstances[members] = agreed.circumstances
        without_caption = rows["caption_problem"].length() - rows["caption_problem"].null_count
        if without_caption:
            rank_zero_info(
                f"{without_caption} of {len(read)} images have no caption; the column caption_problem says why"
            )
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in measure_yield(described).items())
        rank_zero_info(f"{len(keys)} identities described, with {shares}")
        words = {"description": descriptions.tolist(), "circumstances": circumstances.tolist()}
        captioned = super().result(read, rows).with_columns(words)
        return captioned.with_parents(read.parents)
