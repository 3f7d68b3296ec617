"""Encode the attributes of rendered people as class indices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.captioning.attribute_network import Values
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tools.miniperson.palette import GARMENT
from tools.reader.labels import UNKNOWN, hides_lower

VALUES: Values = {
    "upper_colour": tuple(GARMENT),
    "lower_colour": tuple(GARMENT),
    "view": ("front", "back", "left", "right"),
    "sex": ("female", "male"),
}
"""What is read, and the words for it. The lower color of a dress is that of its upper part."""

ONE_COLOR = ("plain", "print", "side_stripe", "none")
"""Patterns under which a garment's color is one color to the eye; stripes and checks have two of equal area."""

PLAIN = ("plain", "none")
"""Patterns of the garments that prompts ask for, on which the classifier is measured."""


def encode(columns: Mapping[str, npt.ArrayLike], values: Values = VALUES) -> Tensor:
    """Number the attributes of images.

    Args:
        columns: words by attribute, (N,) each.
        values: the A attributes and their words.

    Returns:
        (N, A) int64, in the order of ``values``.

    Raises:
        UserError: a word that is not one of an attribute's values.
    """
    numbered = []
    for name, known in values.items():
        words = np.asarray(columns[name], dtype=str)
        strange = sorted(set(words.tolist()) - set(known))
        if strange:
            raise UserError(f"{name} cannot be {strange[0]!r}.", looked_for=", ".join(known))
        numbered.append([known.index(word) for word in words.tolist()])
    return torch.tensor(numbered, dtype=torch.int64).reshape(len(values), -1).T


def encode_rows(rows: Manifest, patterns: tuple[str, ...] = ONE_COLOR) -> Tensor:
    """Number the attributes of renders, (N, 4) int64; colors of garments that are covered are unknown, -100.

    Args:
        rows: N renders.
        patterns: the color of a garment with another pattern is unknown too.
    """
    numbered = encode({name: rows.numpy(name) for name in VALUES})
    for name in ("upper_colour", "lower_colour"):
        shown = rows.table[name.replace("_colour", "_pattern")].to_pylist()
        numbered[torch.tensor([pattern not in patterns for pattern in shown]), list(VALUES).index(name)] = UNKNOWN
    worn = zip(rows.table["upper"].to_pylist(), rows.table["lower"].to_pylist(), strict=True)
    numbered[torch.tensor([hides_lower(*outfit) for outfit in worn]), list(VALUES).index("lower_colour")] = UNKNOWN
    return numbered
