"""What an earlier configuration made: kept, out of the way, and still to be opened."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest import FILE_NAME, Manifest

_PREVIOUS = "previous"


def where_to_put_aside(root: Path) -> Path:
    """Return a folder that is not there yet, ``<root>/previous/<number>``, for all that one run puts aside.

    Stages that are put aside together keep their places beside each other, so a manifest of one still finds its images
    in another.
    """
    numbers = [int(path.name) for path in (root / _PREVIOUS).glob("*") if path.name.isdecimal()]
    return root / _PREVIOUS / f"{1 + max(numbers, default=0):03d}"


def put_aside(root: Path, name: str, aside: Path) -> None:
    """Move what a stage made; its manifests go on finding images that lie outside the chain's folder.

    Args:
        root: the chain's folder.
        name: of the stage.
        aside: where to, as :func:`where_to_put_aside` says.
    """
    place = root / name
    outside = []
    for file in place.rglob(FILE_NAME):
        with suppress(UserError):  # a damaged one is moved as it is
            manifest = Manifest.read(file)
            if root.absolute() not in manifest.root.parents:
                outside.append((file.relative_to(place), manifest))
    aside.mkdir(parents=True, exist_ok=True)
    place.rename(aside / name)
    for file, manifest in outside:  # it noted their place as seen from its own
        manifest.write(aside / name / file)
