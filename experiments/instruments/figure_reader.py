"""A classifier that reads a person's sex off a picture, by what colors say nothing about: figure, hair and clothes.

It is the one of :mod:`experiments.instruments.attribute_reader` with other things to read and wider layers. A sex shows
in little of a picture of 128 x 64 pixels, and a network that sees colors learns those of its training people by heart
instead. So this one is also asked for age, hair, clothes, bag and view, and most pictures lose their colors: channels
change places, are inverted or become grey.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Generator, Tensor

from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.attribute_labels import VALUES, Values, encode
from experiments.instruments.attribute_reader import AttributeNet, read_attributes, train_reader
from experiments.instruments.corpus_parts import parts_of_world
from experiments.instruments.pictures import content_key, to_floats
from experiments.instruments.reader_training import Recipe
from tools.reader import augment
from tools.reader.datamodule import mirror_targets

ASKED = ("sex", "age", "hair_cut", "upper", "lower", "hat", "bag", "view")
"""Columns of the manifest that the network learns to read; only the first is of use."""

_CHANNELS, _DROPOUT = (48, 96, 160, 256), 0.4
_RECIPE = Recipe(epochs=25, batch_size=128, rate=2e-3, seed=5)


@dataclass(frozen=True)
class FigureReader:
    """A trained classifier of figures.

    Args:
        network: its first attribute is the sex.
        epochs: passes over the training images.
        seconds: time of the training.
        parameters: numbers in the network.
    """

    network: AttributeNet
    epochs: int
    seconds: float
    parameters: int

    def sex(self, pictures: Tensor) -> Tensor:
        """Read the sex off pictures, (N, 3, 128, 64) uint8: (N,) int64 in the numbers of ``VALUES["sex"]``."""
        return read_attributes(self.network, pictures)[:, 0]


def values_of(world: Manifest) -> Values:
    """Return the attributes to read and their values in a corpus; those for sex and view are :data:`VALUES`'."""
    found = {name: tuple(sorted(set(np.asarray(world.numpy(name), dtype=str).tolist()))) for name in ASKED}
    return {**found, "sex": VALUES["sex"], "view": VALUES["view"]}


def training_view(values: Values, pictures: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch.

    Args:
        values: the A attributes.
        pictures: (B, 3, 128, 64) uint8.
        targets: (B, A) int64, on the CPU.
        generator: source of the draws.

    Returns:
        images: (B, 3, 128, 64) in 0..1; half are mirrored, few have their colors.
        targets: (B, A); left and right have changed names where the image is mirrored.
    """
    pictures, mirrored = augment.shift_and_mirror(pictures, 6, generator)
    targets = mirror_targets(targets, mirrored, values)
    images = augment.strange_colors(to_floats(pictures), generator)
    return augment.tone(images, 0.3, 0.25, generator), targets


def train_figure_reader(world: Manifest, work: Path, epochs: int) -> FigureReader:
    """Train the classifier on a corpus's ``train`` rows, or load it.

    Args:
        world: manifest of a rendered corpus, with a ``val`` split.
        work: folder where the classifier is kept, under the content of data and recipe.
        epochs: passes over the training images.

    Raises:
        UserError: the manifest lacks a column or a split.
    """
    values = values_of(world)
    training = parts_of_world(world)["training"]
    targets = encode({asked: training.numpy(asked) for asked in ASKED}, values)
    recipe = replace(_RECIPE, epochs=epochs)
    file = work / f"figure-{content_key(world.content_hash, asdict(recipe), _CHANNELS, _DROPOUT, ASKED)}.safetensors"
    make = partial(AttributeNet, _CHANNELS, dropout=_DROPOUT, values=values)
    network, seconds = train_reader(make, training, targets, partial(training_view, values), file, recipe)
    return FigureReader(network, epochs, seconds, sum(parameter.numel() for parameter in network.parameters()))
