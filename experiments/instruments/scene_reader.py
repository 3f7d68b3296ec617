"""A classifier that reads ground, wall and light off pictures of a rendered corpus: the scene behind the person.

It is the one of :mod:`experiments.instruments.attribute_reader` with other things to read. The corpus's ``train`` and
``val`` people were taken by the same cameras, so its share on ``val`` tells how well it knows these scenes, not new
ones; on pictures of other places it says which of these scenes they are most like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Generator, Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.attribute_labels import Values, encode
from experiments.instruments.attribute_reader import AttributeNet, read_attributes, train_reader
from experiments.instruments.pictures import content_key, read_pictures, to_floats
from experiments.instruments.reader_training import Recipe
from experiments.instruments.report import Share, share_of
from tools.reader import augment

SCENE: Values = {
    "ground": ("paving", "asphalt", "wooden boards", "bricks", "grass"),
    "wall": ("a building", "a brick wall", "a wooden wall", "a glass front", "a plain wall", "a tiled wall"),
    "light": ("at night", "in bright sunlight", "under a grey sky"),
}
"""What is read, in the words of the corpus's captions."""

_RECIPE = Recipe(epochs=8, batch_size=96, rate=2e-3, seed=29)


@dataclass(frozen=True)
class SceneReader:
    """A trained classifier of scenes.

    Args:
        network: reads :data:`SCENE`.
        val: share read right on the ``val`` people's pictures, by attribute.
        seconds: time of the training.
    """

    network: AttributeNet
    val: dict[str, Share]
    seconds: float


def parts_of(setting: str) -> tuple[str, str]:
    """Take "on grass in front of a building" apart.

    Returns:
        Ground and wall.

    Raises:
        UserError: it is no such phrase.
    """
    ground, between, wall = setting.partition(" in front of ")
    if not between or not ground.startswith("on "):
        raise UserError(f"{setting!r} is not a place.", looked_for="on GROUND in front of WALL")
    return ground.removeprefix("on "), wall


def encode_scenes(settings: Iterable[str], lights: Iterable[str]) -> Tensor:
    """Number the scenes of N pictures: (N, 3) int64 in the order of :data:`SCENE`."""
    places = [parts_of(setting) for setting in settings]
    grounds, walls = ([place[part] for place in places] for part in range(2))
    return encode({"ground": grounds, "wall": walls, "light": list(lights)}, SCENE)


def train_scene_reader(world: Manifest, work: Path, epochs: int) -> SceneReader:
    """Train the classifier on a corpus's ``train`` rows, or load it, and measure it on the ``val`` rows.

    Args:
        world: manifest of a rendered corpus, with the columns ``setting`` and ``light``.
        work: folder where the classifier is kept, under the content of data and recipe.
        epochs: passes over the training images.

    Raises:
        UserError: the manifest lacks a column or a split.
    """
    split = np.asarray(world.numpy("split"), dtype=str)
    parts = {name: world.filter(split == name) for name in ("train", "val")}
    for name, rows in parts.items():
        if not len(rows):
            raise UserError(f"{world.root} has no {name} image to train and measure the reader of scenes.")
    targets = {name: encode_scenes(rows.numpy("setting"), rows.numpy("light")) for name, rows in parts.items()}
    recipe = replace(_RECIPE, epochs=epochs)
    file = work / f"scenes-{content_key(world.content_hash, asdict(recipe), SCENE)}.safetensors"
    make = partial(AttributeNet, values=SCENE)
    network, seconds = train_reader(make, parts["train"], targets["train"], training_view, file, recipe)
    hits = (read_attributes(network, read_pictures(parts["val"])) == targets["val"]).numpy()
    people = parts["val"].identities()[0]
    return SceneReader(network, {name: share_of(hits[:, place], people) for place, name in enumerate(SCENE)}, seconds)


def training_view(pictures: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch: shifted, half mirrored, in slightly other light; a scene stays the same.

    Args:
        pictures: (B, 3, 128, 64) uint8.
        targets: (B, 3) int64.
        generator: source of the draws.

    Returns:
        images: (B, 3, 128, 64) in 0..1.
        targets: as they are.
    """
    pictures, _ = augment.shift_and_mirror(pictures, 5, generator)
    return augment.tone(to_floats(pictures), 0.08, 0.03, generator), targets
