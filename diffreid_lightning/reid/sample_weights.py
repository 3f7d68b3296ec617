"""Read from a column of generated images how much each counts in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.manifest import Manifest


def generated_weights(manifests: Sequence[Manifest], column: str) -> npt.NDArray[np.float32]:
    """Read how much each row counts in training.

    Args:
        manifests: the rows, in order.
        column: of generated rows; real ones count 1.

    Returns:
        (N,) weights, >= 0 and finite.

    Raises:
        UserError: no row is generated; or generated rows lack the column or a value in it, or a value is negative,
            infinite or no number.
    """
    weights, generated = [], 0
    for manifest in manifests:
        made = np.asarray(pc.equal(manifest.table["split"], "generated"))
        generated += int(made.sum())
        values = np.ones(len(manifest), dtype=np.float32)
        if made.any():
            read = manifest.filter(made).numpy(column)
            try:
                values[made] = read.astype(np.float32)
            except (TypeError, ValueError):  # a column of words
                values[made] = np.nan
        wrong = ~((values >= 0) & np.isfinite(values))  # null is NaN
        if wrong.any():
            raise UserError(
                f"Images of {manifest.root} cannot be weighed by {column!r}.",
                looked_for="a finite number of 0 or more for every generated image",
                found=f"{int(wrong.sum())} of {int(made.sum())} generated images without one",
                remedy="train on the selected images (a Diff-Person folder), or leave data.sample_weight out",
            )
        weights.append(values)
    if not generated:
        raise UserError(
            f"data.sample_weight {column!r} weighs generated images, and there are none.",
            looked_for="rows of split 'generated', as a Diff-Person folder has",
            found=shorten(str(manifest.root) for manifest in manifests),
            remedy="add such a folder to data.train, or leave data.sample_weight out",
        )
    return np.concatenate(weights)
