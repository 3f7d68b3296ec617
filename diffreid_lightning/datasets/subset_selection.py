"""Subsets of the training data: fewer identities (small-scale), fewer images of each (few-shot), or a published list.

The settings of Fu et al. (LUPerson, arXiv 2012.03753). For one seed subsets are nested: 10 % is part of 30 %. Only
``train`` rows are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import not_a_file


def small_scale(manifest: Manifest, identities: float | int, seed: int) -> npt.NDArray[np.bool_]:
    """Keep all images of some training identities.

    Args:
        manifest: rows of any splits.
        identities: their number (a whole number), or their share, above 0.0 to 1.0.
        seed: the choice depends only on it and on the sorted identities.

    Returns:
        (N,) mask of the kept rows.

    Raises:
        UserError: the number is out of range, or there are fewer identities.
    """
    labels, training = _training_rows(manifest)
    present = np.unique(labels[training])
    # A whole number from the command line may be a float: typing's cache takes int | float for float | int.
    if isinstance(identities, int) or (identities > 1 and identities.is_integer()):
        wanted = int(identities)
    else:
        wanted = max(1, round(_share(identities, "identities") * len(present)))
    if not 0 < wanted <= len(present):
        raise UserError(
            f"{wanted} training identities were requested.",
            looked_for=f"1 to {len(present)}, or a share above 0.0",
            found=f"{len(present)} identities in the train split of {manifest.root}",
        )
    chosen = np.random.default_rng(seed).permutation(present)[:wanted]
    return ~training | np.isin(labels, chosen)


def few_shot(manifest: Manifest, images: float, seed: int) -> npt.NDArray[np.bool_]:
    """Keep some images of every training identity, at least one.

    Args:
        manifest: rows of any splits.
        images: share of each identity's images, above 0.0 to 1.0, rounded to whole images.
        seed: the choice depends only on it and on the sorted file names.

    Returns:
        (N,) mask of the kept rows.

    Raises:
        UserError: the share is out of range.
    """
    share = _share(images, "images")
    labels, training = _training_rows(manifest)
    kept = ~training
    names = np.asarray(manifest.numpy("file_name"), dtype=str)
    rows = np.flatnonzero(training)
    # Sorted by name first, so that the listing order of the disk does not matter.
    by_name = rows[np.argsort(names[rows], kind="stable")]
    shuffled = np.random.default_rng(seed).permutation(by_name)
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[grouped], return_index=True, return_counts=True)
    place = np.arange(len(grouped)) - np.repeat(starts, counts)
    wanted = np.repeat(np.maximum(1, np.rint(share * counts)), counts)
    kept[grouped[place < wanted]] = True
    return kept


def listed(manifest: Manifest, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Keep the training images that a list names.

    Args:
        manifest: rows of any splits.
        names: of the images: paths as the manifest has them, or their last parts where each means one image.

    Returns:
        (N,) mask of the rows that stay.

    Raises:
        UserError: a name means no training image, or several; or none is named.
    """
    _, training = _training_rows(manifest)
    files = [str(name) for name in manifest.numpy("file_name")]
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(training).tolist():
        for name in {files[row], Path(files[row]).name}:
            rows.setdefault(name, []).append(row)
    wrong = [name for name in names if len(rows.get(name, ())) != 1]
    if wrong or not names:
        raise UserError(
            f"A list does not name training images of {manifest.root}.",
            looked_for=f"file names such as {shorten(rows, 2) or '(there is no training image)'}",
            found=f"{len(wrong)} of {len(names)} names mean none or several: {shorten(wrong, 4)}" if wrong else "none",
            remedy="give the list that belongs to this dataset, one file name a line",
        )
    kept = ~training
    kept[[rows[name][0] for name in names]] = True
    return kept


def read_names(file: Path) -> list[str]:
    """Read a list of images: a text file with one name a line; what follows a name after a space is passed over.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        if (found := not_a_file(file)) is not None:
            raise OSError(found)
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The list of images {file} cannot be read.",
            looked_for="a text file with one file name a line",
            found=str(error),
            remedy="write the names of a pickled list into a text file; pickles are not opened",
        ) from error
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def _training_rows(manifest: Manifest) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    labels, _ = manifest.identities()
    return labels, np.asarray(manifest.numpy("split") == "train")


def _share(value: float, what: str) -> float:
    if not 0 < value <= 1:
        raise UserError(f"A subset has a share of {value} of the {what}.", looked_for="a share above 0, up to 1")
    return float(value)
