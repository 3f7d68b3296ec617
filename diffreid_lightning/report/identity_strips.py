"""Draw contact sheets of identities: real images beside generated ones, kept or rejected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.report.blocks import block, text
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.visualization.grid import RIGHT, WRONG, Cell, GridRow, draw_grid

_IDENTITIES, _REAL, _GENERATED = 24, 3, 10
_CELL = (64, 128)  # width and height in pixels
_FRAMES = {None: None, True: RIGHT, False: WRONG}
Identity = tuple[str, str, int]  #: source, partition, pid
SCORES = ("confidence", "similarity", "margin", "consistency")


def draw_strips(parts: Sequence[Manifest], real: Manifest | None, budget: PictureBudget) -> list[Markup]:
    """Draw a strip for each of 24 identities, evenly spread: up to 3 real and 10 generated images, the best first.

    Args:
        parts: manifests of generated rows; those with the column ``kept`` are marked.
        real: manifest of the real images, or None.
        budget: embeds the strips.

    Returns:
        The figures; words if no image can be read.
    """
    groups = [_group(part) for part in parts]
    reals: dict[Identity, list[int]] = {} if real is None else _group(real)
    people = sorted({key for group in groups for key in group})
    blocks = []
    for key in _spread(people, _IDENTITIES):
        found = [(part, row) for part, group in zip(parts, groups, strict=True) for row in group.get(key, ())]
        best = sorted(found, key=lambda each: -_score(*each))
        left = [cell for row in _spread(reals.get(key, []), _REAL) if real is not None and (cell := _cell(real, row))]
        right = [cell for part, row in best[:_GENERATED] if (cell := _cell(part, row))]
        if left or right:
            kept = sum(part.table["kept"][row].as_py() is True for part, row in best if "kept" in part.columns)
            marked = any("kept" in part.columns for part in parts)
            words = f"{key[0]}, person {key[2]}: {len(best)} generated" + (f", {kept} kept" if marked else "")
            alt = f"{len(left)} real and {len(right)} generated images of {key[0]}, person {key[2]}"
            sheet = draw_grid([GridRow("", right, left)], _CELL, ("real", "generated"))
            blocks.append(block("figure", budget.embed(sheet, alt), words))
    if not blocks:
        return [text("The images of this manifest are not on this machine.")]
    words = f"{_IDENTITIES} of {len(people):,} identities, evenly spread; data browse shows all of them."
    return [*blocks, *([text(words)] if len(people) > _IDENTITIES else [])]


def _group(manifest: Manifest) -> dict[Identity, list[int]]:
    """Return the rows of each identity."""
    labels, keys = manifest.identities()
    rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    return {key: each.tolist() for key, each in zip(keys, rows, strict=False)}  # without any there is one empty group


def _spread(values: Sequence, count: int) -> list:
    return [values[place] for place in np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)]


def _score(manifest: Manifest, row: int) -> float:
    values = (manifest.table[name][row].as_py() for name in SCORES if name in manifest.columns)
    return next((value for value in values if value is not None), -np.inf)


def _cell(manifest: Manifest, row: int) -> Cell | None:
    """Read an image with its frame and words; None if it cannot be read."""
    values = manifest.table.slice(row, 1).to_pylist()[0]
    try:
        image, _ = manifest.images.image_or_reason(values["file_name"])
    except UserError:
        return None
    kept = values.get("kept")
    words = {None: "", True: "kept ", False: "rejected "}[kept]
    words += next((f"{values[name]:.2f}" for name in SCORES if values.get(name) is not None), "")
    return None if image is None else Cell(image, _FRAMES[kept], [words] if words else ())
