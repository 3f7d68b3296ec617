"""Exchange labels of training images, to measure what wrong labels cost and which filter finds them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from diffreid_lightning.datasets import PersonDataset, open_dataset
from diffreid_lightning.errors import UserError, check_range, check_seed
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest

Unit = Literal["images", "people"]


class LabelNoise(PersonDataset):
    """The ``train`` rows of a dataset as if they were generated, a share of them with another person's label.

    Exchanged single images make labels that disagree with themselves. Exchanged people leave each label in agreement
    with itself, and wrong: all images of one person bear the name of another.

    Args:
        dataset: the dataset with right labels.
        share: of the images, or of the people, that get another label, 0 to 1.
        unit: what is exchanged.
        seed: of the choice.

    Raises:
        UserError: the share is out of range, or the unit unknown.
    """

    def __init__(self, dataset: PersonDataset | str, share: float, unit: Unit = "images", seed: int = 0) -> None:
        check_range("LabelNoise.share", share, 0, 1)
        check_seed("LabelNoise.seed", seed)
        if unit not in get_args(Unit):
            raise UserError(f"LabelNoise.unit is {unit!r}.", looked_for=" or ".join(get_args(Unit)))
        self.dataset = open_dataset(dataset)
        super().__init__(self.dataset.root)
        self.source = self.dataset.source
        self.share = share
        self.unit: Unit = unit
        self.seed = seed

    @classmethod
    def has_layout(cls, images: ImageRoot) -> bool:
        """Return false: labels are exchanged on demand and never found so in a folder."""
        return False

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the class path and arguments; ``changes`` apply to the dataset with right labels."""
        own = {"share": self.share, "unit": self.unit, "seed": self.seed}
        path = f"{__name__}.{type(self).__name__}"
        return {"class_path": path, "init_args": {"dataset": self.dataset.config(**changes), **own}}

    def _read(self) -> tuple[Manifest, int]:
        manifest = self.dataset.manifest()
        manifest = manifest.filter(manifest.numpy("split") == "train")
        pids = exchange_labels(manifest.numpy("pid"), self.share, self.unit, self.seed)
        columns = {name: manifest.table[name] for name in ("file_name", "source", "partition", "camid", "role")}
        drawn = {"prompt": "", "attributes": "{}", "seed": self.seed, "generator": "0" * 64}
        columns |= {"pid": pids, "source_pid": pids, "split": "generated", **drawn}
        return Manifest.from_columns(manifest.root, columns), self.dataset.junk


def exchange_labels(pids: np.ndarray, share: float, unit: Unit, seed: int) -> np.ndarray:
    """Return labels of which a share is exchanged: no chosen image, or person, keeps its own.

    Args:
        pids: (N,) labels.
        share: of the images or people, 0 to 1, rounded to whole ones; a single chosen person keeps their label.
        unit: what is exchanged: each chosen image gets the label of any other person, or the chosen people pass their
            labels on in a circle.
        seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    people = np.unique(pids)
    exchanged = pids.copy()
    if unit == "people":
        chosen = generator.permutation(people)[: round(share * len(people))]
        for person, other in zip(chosen, np.roll(chosen, 1), strict=True):
            exchanged[pids == person] = other
        return exchanged
    for image in generator.permutation(len(pids))[: round(share * len(pids))]:
        exchanged[image] = generator.choice(people[people != pids[image]])
    return exchanged
