"""Draw some people of a dataset on one sheet, each with some images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.visualization.grid import draw_samples, side_by_side, spread

_CELL = (64, 128)
_MOST_ROWS = 8


def identity_sheet(manifest: Manifest, identities: int = 12, images: int = 8) -> Image.Image:
    """Draw people of a dataset, a row each; from 9 people on in two columns.

    The people are spread evenly over those who have enough images; where these are too few, they are those with most.
    A person's images are spread in the order of their file names: the same sheet every time.

    Args:
        manifest: the rows; distractors are left out.
        identities: how many people at most.
        images: how many images of each at most.

    Raises:
        UserError: there is no image of a person, or one cannot be read.
    """
    people = manifest.filter(np.asarray(manifest.numpy("role") == "identity"))
    if not len(people):
        raise UserError("There is nobody to show.", looked_for="rows with role 'identity'", found=str(manifest.root))
    labels, keys = people.identities()
    counts = np.bincount(labels, minlength=len(keys))
    rich = np.flatnonzero(counts >= min(images, counts.max()))
    most = np.argsort(-counts, kind="stable")[:identities]
    chosen = rich[spread(len(rich), identities)] if len(rich) >= identities else most
    names, cameras = people.numpy("file_name"), people.numpy("camid")
    lines = []
    for person in np.sort(chosen):
        rows = np.flatnonzero(labels == person)
        rows = rows[np.argsort(names[rows])][spread(len(rows), images)]
        source, _, pid = keys[person]
        seen = ", ".join(map(str, sorted(set(cameras[labels == person].tolist()))))
        label = f"{source}-{pid:04d}: {counts[person]} images, cameras {seen}"
        cells = [people.images.image(names[row]).resize(_CELL, Image.Resampling.BICUBIC) for row in rows]
        lines.append((label, cells))
    middle = len(lines) if len(lines) <= _MOST_ROWS else (len(lines) + 1) // 2
    return side_by_side([draw_samples(part) for part in (lines[:middle], lines[middle:]) if part])
