"""A classifier that reads colors, view and sex off pictures of rendered people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from diffreid_lightning.captioning.attribute_network import AttributeNetwork, average_mirrored
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.attribute_labels import (
    ONE_COLOR,
    PLAIN,
    VALUES,
    Values,
    encode_rows,
)
from experiments.instruments.corpus_parts import parts_of_world
from experiments.instruments.pictures import content_key, outputs, read_pictures, to_floats
from experiments.instruments.reader_training import Recipe, train_once
from experiments.instruments.report import Share, share_of
from tools.reader import augment
from tools.reader.datamodule import join_people, mirror_targets
from tools.reader.labels import COVERED_BY_COAT, UNKNOWN
from tools.reader.training import attribute_loss

View = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""Augments (B, 3, 128, 64) uint8 and (B, A) int64 on the CPU: images in 0..1, and what is to be read of them."""

_RECIPE = Recipe(epochs=30, batch_size=96, rate=2e-3, seed=11)


class AttributeNet(AttributeNetwork):
    """The network for pictures of 128 x 64 pixels; 2.1 million parameters as it stands.

    Args:
        channels: of the stem and the three stages.
        dropout: of the last map.
        values: what it reads; V is 34 for :data:`VALUES`.
    """

    def __init__(
        self, channels: tuple[int, int, int, int] = (32, 64, 128, 192), dropout: float = 0.3, values: Values = VALUES
    ) -> None:
        super().__init__(values, channels, dropout)


def training_view(pictures: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch.

    Half the images are mirrored, and left and right change names. Four in ten get the lower half of another one, with
    its lower color: the colors of upper and lower garment then tell nothing of each other, and pairs that no training
    image shows are as likely as any.

    Args:
        pictures: (B, 3, 128, 64) uint8.
        targets: (B, 4) int64.
        generator: source of the draws.

    Returns:
        images: (B, 3, 128, 64) in 0..1.
        targets: (B, 4); view and sex of joined images are unknown, -100.
    """
    pictures, mirrored = augment.shift_and_mirror(pictures, 5, generator)
    targets = mirror_targets(targets, mirrored, VALUES)
    names = [name.replace("colour", "color") for name in VALUES]
    pictures, targets = join_people(pictures, targets, 0.4, names, generator)
    return augment.tone(to_floats(pictures), 0.12, 0.03, generator), targets


def row_weights(targets: Tensor) -> npt.NDArray[np.float64]:
    """Weigh rows for sampling: rare colors more often, by the square root of their rarity, at most tenfold.

    Args:
        targets: (N, 4) int64.

    Returns:
        (N,) weights.
    """
    weights = np.ones(len(targets))
    for name in ("upper_colour", "lower_colour"):
        column = targets[:, list(VALUES).index(name)].numpy()
        known = column != UNKNOWN
        weights[known] /= np.sqrt(np.bincount(column[known], minlength=len(VALUES[name]))[column[known]])
        weights[~known] /= np.sqrt(max(1.0, known.mean() * len(column) / len(VALUES[name])))  # as a middling color
    return np.minimum(weights, 10 * np.median(weights)) if len(weights) else weights


def read_attributes(network: AttributeNetwork, pictures: Tensor) -> Tensor:
    """Read the attributes of pictures, from each and its mirror image together.

    Args:
        network: a trained classifier.
        pictures: (N, 3, 128, 64) uint8.

    Returns:
        (N, A) int64, in the order of the network's values.
    """
    averaged = average_mirrored(outputs(network, pictures), outputs(network, pictures.flip(-1)), network.values)
    return torch.stack([scores.argmax(1) for scores in averaged.values()], dim=1)


def agreement(read: Tensor, asked: Tensor, people: npt.NDArray[np.int64] | None = None) -> dict[str, Share]:
    """Measure the share of the images on which both say the same, by attribute and for ``all four``.

    Args:
        read: (N, 4) int64.
        asked: (N, 4) int64; -100 where it is not known, which leaves the image out.
        people: (N,) whom each image shows, for intervals over people; None where each image is of its own prompt.
    """

    def measured(rows: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> Share:
        return share_of(right[rows], None if people is None else people[rows])

    hits: npt.NDArray[np.bool_] = (read == asked).numpy()
    known: npt.NDArray[np.bool_] = (asked != UNKNOWN).numpy()
    found = {name: measured(known[:, number], hits[:, number]) for number, name in enumerate(VALUES)}
    return {**found, "all four": measured(known.all(axis=1), hits.all(axis=1))}


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier and how it came about.

    Args:
        network: the network.
        training_images: how many it was trained on.
        occluded: rows left out, of ``train`` and ``val``, because the person is hidden in part.
        seconds: time of the training.
        epochs: passes over the training images.
        parameters: numbers in the network.
    """

    network: AttributeNet
    training_images: int
    occluded: int
    seconds: float
    epochs: int
    parameters: int


def measured_on_renders(read: Callable[[Tensor], Tensor], parts: Mapping[str, Manifest]) -> dict[str, dict[str, Share]]:
    """Measure how well renders are read, :func:`agreement`, colors on those of plain garments; intervals over people.

    Args:
        read: (N, 3, 128, 64) uint8 to (N, 4) int64.
        parts: of the corpus, see :func:`~experiments.instruments.corpus_parts.parts_of_world`.

    Returns:
        ``held_out``: on people like those of training, but others; ``val``: on people whose color pairs were not seen.
    """
    return {
        name: agreement(read(read_pictures(parts[name])), encode_rows(parts[name], PLAIN), parts[name].identities()[0])
        for name in ("held_out", "val")
    }


def train_classifier(world: Manifest, work: Path, epochs: int) -> TrainedClassifier:
    """Train the classifier on a corpus's ``train`` rows, or load it.

    Args:
        world: manifest of a rendered corpus, with a ``val`` split.
        work: folder where the classifier is kept, under the content of data and recipe.
        epochs: passes over the training images.

    Raises:
        UserError: the manifest lacks a column or a split.
    """
    parts = parts_of_world(world)
    targets = encode_rows(parts["training"])
    recipe = replace(_RECIPE, epochs=epochs)
    key = content_key(world.content_hash, asdict(recipe), ONE_COLOR, COVERED_BY_COAT)
    file = work / f"attributes-{key}.safetensors"
    network, seconds = train_reader(
        AttributeNet, parts["training"], targets, training_view, file, recipe, row_weights(targets)
    )
    return TrainedClassifier(
        network,
        training_images=len(parts["training"]),
        seconds=seconds,
        occluded=int(world.numpy("occluded").sum()),
        epochs=epochs,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def train_reader(
    make: Callable[[], AttributeNet],
    rows: Manifest,
    targets: Tensor,
    view: View,
    file: Path,
    recipe: Recipe,
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[AttributeNet, float]:
    """Train a network that reads attributes, or load it.

    Args:
        make: makes it with its initial weights.
        rows: N training images.
        targets: (N, A) int64, in the order of the network's values.
        view: augments a batch.
        file: safetensors; its name should tell data and recipe.
        recipe: how to train.
        weights: (N,) how often each row is drawn, relative to the others; None draws all alike.

    Returns:
        The network, and the seconds that its training took.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = make()
    pictures = torch.empty(0) if file.exists() else read_pictures(rows)

    def batch_loss(batch: Tensor, generator: Generator) -> Tensor:
        device = fastest_device()
        images, wanted = view(pictures[batch].to(device), targets[batch], generator)
        return attribute_loss(network(images), wanted.to(device), network.values)

    seconds = train_once(network, file, batch_loss, np.ones(len(rows)) if weights is None else weights, recipe)
    return network, seconds
