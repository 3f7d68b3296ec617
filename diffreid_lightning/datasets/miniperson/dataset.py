"""MiniPerson: rendered pedestrians in two domains, shipped inside the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from diffreid_lightning.datasets.base import Counts, PersonDataset, Rows
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest

_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

_PUBLISHED: Mapping[str, Mapping[str, Counts]] = {
    "campus": {
        "train": Counts(160, 1114, 6),
        "val": Counts(40, 271, 6),
        "query": Counts(100, 266, 6),
        "gallery": Counts(101, 593, 6),
    },
    "station": {
        "train": Counts(160, 1121, 6),
        "val": Counts(40, 279, 6),
        "query": Counts(100, 259, 6),
        "gallery": Counts(101, 586, 6),
    },
}


class MiniPerson(PersonDataset):
    """One domain of MiniPerson: 160 people to train on, 40 to validate on, 100 to search for, under six cameras.

    Market-1501's layout and names, 128 x 64 pixels, read straight from an uncompressed archive in the package. As in
    Market-1501 the gallery holds distractors (pid 0), and junk (pid -1) is left out. Beside the contract's columns the
    manifest tells what was rendered: ``sex``, ``age``, ``upper``, ``upper_colour``, ``upper_pattern``, ``sleeve``,
    ``lower``, ``lower_colour``, ``lower_pattern``, ``shoes``, ``shoe_colour``, ``hair_colour``, ``hair_cut``, ``hat``,
    ``bag``, ``bag_colour``, ``glasses``, ``beard`` of the person, and ``view`` (the side that is seen: front, back,
    left, right), ``pose``, ``scene``, ``light``, ``occluded``, ``visible`` (share of the person in sight, 0 to 1) of
    the image.

    Args:
        domain: ``campus`` by day or ``station`` by night; they share no person, camera, background or kind of movement.
        strict: make a difference from the published counts an error instead of a warning.
    """

    layout = f"{', '.join(_FOLDERS)} and {FILE_NAME}"

    def __init__(self, domain: Literal["campus", "station"] = "campus", *, strict: bool = False) -> None:
        if domain not in _PUBLISHED:
            raise UserError(
                f"MiniPerson has no domain {domain!r}", looked_for=" or ".join(_PUBLISHED), remedy="choose one of them"
            )
        super().__init__(Path(__file__).parent / "assets" / f"{domain}.zip", strict=strict)
        self.domain = domain
        self.source = f"miniperson_{domain}"

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Tell whether Market's folders and a manifest of rendered people lie there."""
        return images.exists(FILE_NAME) and set(_FOLDERS) <= set(images.folders())

    @property
    def published(self) -> Mapping[str, Counts]:
        """Counts of the archives that ship with the package; the gallery's ids include the distractors' 0."""
        return _PUBLISHED[self.domain]

    @property
    def description(self) -> str:
        """The domain."""
        return f"MiniPerson, {self.domain}"

    def _read(self) -> tuple[Manifest, int]:
        images = self._place(ImageRoot(self.root))
        manifest = Manifest.read(images.path)
        return manifest, len(images.images()) - len(manifest)

    def _rows(self, images: ImageRoot) -> Rows:
        raise NotImplementedError("the archive holds its manifest")
