"""A dataset with less training data, for the small-scale and few-shot settings."""

from __future__ import annotations

from typing import Any

from diffreid_lightning.datasets.base import PersonDataset
from diffreid_lightning.datasets.detect import open_dataset
from diffreid_lightning.datasets.subset_selection import few_shot, listed, read_names, small_scale
from diffreid_lightning.errors import UserError, check_range, check_seed
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import user_path


class Subset(PersonDataset):
    """Part of another dataset's ``train`` rows; val, query and gallery are complete.

    ``val`` rows are for validation alone: unlike a whole dataset's, they are not trained on where nobody is held out.

    All stages (captions, personalization, generation, scores, training) read the same subset, so that none of them
    sees more data than the setting allows.

    Args:
        dataset: the whole dataset: a path, ``miniperson``, or a dataset class.
        identities: number of training identities to keep (a whole number), or their share; None keeps all. Small-scale.
        images: share of each remaining identity's images; None keeps all. Few-shot.
        seed: of the choice.
        list_file: text file with the names of the training images to keep, one per line, as published subsets come;
            None for no list. It replaces ``identities`` and ``images``.

    Raises:
        UserError: a number is out of range, or a list is given beside ``identities`` or ``images``.
    """

    def __init__(
        self,
        dataset: PersonDataset | str,
        identities: int | float | None = None,
        images: float | None = None,
        seed: int = 0,
        list_file: str | None = None,
    ) -> None:
        check_range("Subset.identities", identities, 0, above=True)
        check_range("Subset.images", images, 0, 1, above=True)
        check_seed("Subset.seed", seed)
        if list_file is not None and (identities, images) != (None, None):
            raise UserError(
                "Subset.list_file replaces identities and images.",
                found=f"list_file {list_file}, identities {identities}, images {images}",
                remedy="give the list or the numbers",
            )
        self.whole = open_dataset(dataset)
        super().__init__(self.whole.root, source=self.whole.source)
        self.identities = identities
        self.images = images
        self.seed = seed
        self.list_file = list_file

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return false: a subset is made from a dataset and never detected in a folder."""
        return False

    @property
    def pids_restart(self) -> bool:  # type: ignore[override]
        """Return whether the whole dataset's test identities are numbered from the start again."""
        return self.whole.pids_restart

    @property
    def description(self) -> str:
        """Return the whole dataset's description and the sizes of the subset."""
        left = []
        if self.identities is not None:
            is_share = isinstance(self.identities, float) and self.identities <= 1
            left = [f"{self.identities:.0%} of the identities" if is_share else f"{self.identities:g} identities"]
        left += [f"{self.images:.0%} of each identity's images"] if self.images is not None else []
        chosen = f"{', '.join(left) or 'all'} (seed {self.seed})" if self.list_file is None else self.list_file
        return f"{self.whole.description}; of its training rows {chosen}"

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the class path and arguments; ``changes`` apply to the whole dataset."""
        own = {name: getattr(self, name) for name in ("identities", "images", "seed", "list_file")}
        return {"class_path": "Subset", "init_args": {"dataset": self.whole.config(**changes), **own}}

    def training_manifest(self) -> Manifest:
        """Return the rows without the ``val`` split, which the setting does not allow to train on."""
        manifest = self.manifest()
        return manifest.filter(manifest.numpy("split") != "val")

    def _read(self) -> tuple[Manifest, int]:
        manifest, junk = self.whole.manifest(), self.whole.junk
        if self.list_file is not None:
            manifest = manifest.filter(listed(manifest, read_names(user_path(self.list_file))))
        if self.identities is not None:
            manifest = manifest.filter(small_scale(manifest, self.identities, self.seed))
        if self.images is not None:
            manifest = manifest.filter(few_shot(manifest, self.images, self.seed))
        self._notes = self.whole.notes
        self._compared = True  # the whole dataset has just warned of notes and counts
        return manifest, junk
