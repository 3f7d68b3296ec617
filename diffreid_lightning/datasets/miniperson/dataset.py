"""MiniPerson: rendered pedestrians in two domains, shipped inside the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from diffreid_lightning.datasets.base import Counts, PersonDataset
from diffreid_lightning.errors import UserError, nearest
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
    """One domain of MiniPerson: 160 training, 40 validation and 100 test identities, six cameras.

    Market-1501's layout and names, 128 x 64 pixels, read directly from an uncompressed archive in the package. As in
    Market-1501 the gallery holds distractors (pid 0) and junk (pid -1) is dropped. Additional columns of the manifest
    describe the rendered person (``sex``, ``age``, ``upper``, ``upper_colour``, ``upper_pattern``, ``sleeve``,
    ``lower``, ``lower_colour``, ``lower_pattern``, ``shoes``, ``shoe_colour``, ``hair_colour``, ``hair_cut``, ``hat``,
    ``bag``, ``bag_colour``, ``glasses``, ``beard``) and the image: ``view`` (visible side: front, back, left, right),
    ``pose``, ``scene``, ``light``, ``occluded``, ``visible`` (visible share of the person, 0 to 1).

    Args:
        domain: ``campus`` by day or ``station`` by night, without a common person, camera, background or movement.
        strict: make a difference from the published counts an error instead of a warning.
    """

    layout = f"{', '.join(_FOLDERS)} and {FILE_NAME}"

    def __init__(self, domain: Literal["campus", "station"] = "campus", *, strict: bool = False) -> None:
        if domain not in _PUBLISHED:
            guess = nearest(domain, _PUBLISHED)
            raise UserError(
                f"MiniPerson has no domain {domain!r}",
                looked_for=" or ".join(_PUBLISHED),
                remedy=f"did you mean miniperson:{guess}?" if guess else "choose one of them",
            )
        super().__init__(Path(__file__).parent / "assets" / f"{domain}.zip", strict=strict)
        self.domain = domain
        self.source = f"miniperson_{domain}"

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return true if Market's folders and a manifest exist."""
        return images.exists(FILE_NAME) and set(_FOLDERS) <= set(images.folders())

    @property
    def published_counts(self) -> Mapping[str, Counts]:
        """Return the counts of the archives in the package; the gallery's ids include the distractors' pid 0."""
        return _PUBLISHED[self.domain]

    @property
    def description(self) -> str:
        """Return the name and the domain."""
        return f"MiniPerson, {self.domain}"

    def _read(self) -> tuple[Manifest, int]:
        images = self._place(ImageRoot(self.root))
        manifest = Manifest.read(images.path)
        return manifest, len(images.images()) - len(manifest)
