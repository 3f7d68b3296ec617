"""Contact sheets of identities: real images beside generated ones, kept or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.report.blocks import Block, Text
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.visualization.grid import Cell, GridRow, draw_grid

_IDENTITIES, _REAL, _GENERATED = 24, 3, 10
_CELL = (64, 128)  # width and height in pixels
_KEPT, _REJECTED = (34, 160, 70), (214, 50, 48)  # as in rank lists
SCORES = ("confidence", "similarity", "margin")


def draw_strips(parts: Sequence[Manifest], real: Manifest | None, budget: PictureBudget) -> list[Block]:
    """Draw a strip for each of 24 identities, evenly spread: up to 3 real and 10 generated images, the best first.

    Args:
        parts: manifests of generated rows; those with the column ``kept`` are marked.
        real: manifest of the real images, or None.
        budget: embeds the strips.

    Returns:
        The pictures; a text if no image can be read.
    """
    rows: dict[tuple[str, str, int], list[tuple[float, Manifest, int]]] = {}
    for part in parts:
        name = next((name for name in SCORES if name in part.columns), None)
        scores = np.zeros(len(part)) if name is None else np.nan_to_num(part.numpy(name), nan=-np.inf)
        labels, keys = part.identities()
        for row, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
            rows.setdefault(keys[label], []).append((-score, part, row))
    chosen = sorted(rows)
    chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, min(_IDENTITIES, len(chosen))).astype(int)]
    reals = {} if real is None else _rows_of(real, chosen)
    blocks: list[Block] = []
    for key in chosen:
        best = sorted(rows[key], key=lambda each: each[0])
        left = [cell for row in reals.get(key, []) if real is not None and (cell := _cell(real, row))]
        right = [cell for _, part, row in best[:_GENERATED] if (cell := _cell(part, row))]
        if left or right:
            kept = sum(bool(_value(part, "kept", row)) for _, part, row in best)
            marked = any("kept" in part.columns for _, part, _ in best)
            words = f"{key[0]}, person {key[2]}: {len(best)} generated" + (f", {kept} kept" if marked else "")
            sheet = draw_grid([GridRow("", right, left)], _CELL, ("real", "generated"))
            alt = f"{len(left)} real and {len(right)} generated images of {key[0]}, person {key[2]}"
            blocks.append(budget.embed(sheet, alt, words))
    return blocks or [Text("The images of this manifest are not on this machine.")]


def _rows_of(real: Manifest, keys: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], list[int]]:
    """Choose real images of identities, evenly spread over the rows."""
    labels, known = real.identities()
    places = {key: number for number, key in enumerate(known)}
    found = {}
    for key in keys:
        rows: npt.NDArray[np.int64] = np.flatnonzero(labels == places.get(key, -1))
        if len(rows):
            found[key] = rows[np.linspace(0, len(rows) - 1, min(_REAL, len(rows))).astype(int)].tolist()
    return found


def _cell(manifest: Manifest, row: int) -> Cell | None:
    """Read an image with its frame and words; None if it cannot be read."""
    try:
        image, _ = manifest.images.image_or_reason(_value(manifest, "file_name", row))
    except UserError:
        return None
    if image is None:
        return None
    kept = _value(manifest, "kept", row)
    score = next((value for name in SCORES if (value := _value(manifest, name, row)) is not None), None)
    words = [] if kept is None else ["kept" if kept else "rejected"]
    words += [] if score is None else [f"{score:.2f}"]
    return Cell(image, None if kept is None else _KEPT if kept else _REJECTED, [" ".join(words)] if words else ())


def _value(manifest: Manifest, column: str, row: int) -> Any:
    return manifest.table[column][row].as_py() if column in manifest.columns else None
