"""Measure the label noise of generated images, and how alike those of one label are.

    python -m experiments.evidence.labels --chain CHAIN --scorer SCORER [--subset LABEL=FOLDER]

asks of the images that a finished chain generated, and of selections of them:

* recognized: share whose nearest centroid is the intended person's, for a network trained on *all* training images of
  these people, of which the chain may have seen a part: the scorer of a chain over all of them;
* consistent: share that is nearest to the mean of the *generated* images of its own label, itself left out, for the
  same network: whether a label means one person, whoever that is;
* alike: mean cosine of two images of one label; the less, the more there is to learn from them.

A second table asks it by person.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffreid_lightning.datasets.transforms import evaluation_view
from diffreid_lightning.filtering.scorer import ReIDScorer
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.known_people import number_people
from experiments.instruments.report import table
from experiments.instruments.script import run_script

_BATCH = 128
_SHARES = (0.0, 0.1, 0.4, 0.7, 1.01)
_HEADS = ("recognized", "people", "consistent, %", "alike (cosine)")


class Shown(NamedTuple):
    """Features and predictions of a network for images.

    Args:
        features: (N, D) unit vectors.
        recognized: (N,) whether the intended person is the nearest.
    """

    features: Tensor
    recognized: Tensor


def consistent(features: Tensor, labels: Tensor) -> Tensor:
    """Tell which images are nearest to the others of their label.

    Args:
        features: (N, D) unit vectors.
        labels: (N,) numbers from 0, each with two images or more.

    Returns:
        (N,) bool: the cosine to the mean of the label's other images exceeds that to every other label's mean.
    """
    count = int(labels.max()) + 1
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, labels, features)
    others = torch.nn.functional.normalize(sums[labels] - features, dim=1)
    cosines = features @ torch.nn.functional.normalize(sums, dim=1).T
    cosines[torch.arange(len(labels)), labels] = -torch.inf
    return (features * others).sum(dim=1) > cosines.max(dim=1).values


def alike(features: Tensor, labels: Tensor) -> float:
    """Return the mean cosine of two images of one label, over labels with two or more.

    Args:
        features: (N, D) unit vectors.
        labels: (N,) numbers from 0.
    """
    means = []
    for label in labels.unique():
        own = features[labels == label]
        if len(own) > 1:
            means.append((own.sum(dim=0).square().sum() - len(own)) / (len(own) * (len(own) - 1)))
    return float(torch.stack(means).mean())


@torch.no_grad()
def look(images: Manifest, scorer: Path) -> Shown:
    """Show a network generated images of people it was trained on.

    Args:
        images: the images.
        scorer: its folder.

    Raises:
        UserError: it does not know somebody.
    """
    judge = ReIDScorer(str(scorer)).eval()
    intended = torch.from_numpy(number_people(images, judge.folder.identities))
    names = images.table["file_name"].to_pylist()
    features, recognized = [], []
    for start in range(0, len(names), _BATCH):
        part = slice(start, start + _BATCH)
        views = [evaluation_view(images.images.image(name), judge.folder.image_size) for name in names[part]]
        batch = torch.stack(views).float() / 255
        features.append(torch.nn.functional.normalize(judge.network.embed(batch)[0].float(), dim=1))
        recognized.append(judge.network(batch, intended[part]).margin > 0)
    return Shown(torch.cat(features), torch.cat(recognized))


def _agreed(generated: Manifest, shown: Shown) -> tuple[Tensor, Tensor]:
    """The number of each image's label, and whether the label's other images agree with it."""
    labels = torch.from_numpy(np.array(generated.identities()[0]))
    return labels, consistent(shown.features, labels)


def labels_table(generated: Manifest, shown: Shown, subsets: dict[str, Manifest]) -> str:
    """One line for each subset of the generated images."""
    place = {name: row for row, name in enumerate(generated.table["file_name"].to_pylist())}
    labels, agreed = _agreed(generated, shown)
    lines = []
    for label, subset in subsets.items():
        rows = torch.tensor([place[name] for name in subset.table["file_name"].to_pylist()])
        shares = [f"{100 * values[rows].float().mean():.1f}" for values in (shown.recognized, agreed)]
        lines.append((label, f"{len(rows):,}", *shares, f"{alike(shown.features[rows], labels[rows]):.3f}"))
    heads = ("images", "number", "recognized, %", "consistent, %", "alike (cosine)")
    return table("Whom the generated images show", heads, lines)


def people_table(generated: Manifest, shown: Shown) -> str:
    """People by how many of their images are recognized: whether the errors are of people or of images."""
    labels, agreed = _agreed(generated, shown)
    shares = torch.stack([shown.recognized[labels == label].float().mean() for label in labels.unique()])
    lines = []
    for low, high in itertools.pairwise(_SHARES):
        people = (shares >= low) & (shares < high)
        rows = people[labels]
        if people.any():
            share = f"{100 * agreed[rows].float().mean():.1f}"
            words = f"{100 * low:.0f} to {100 * min(high, 1):.0f} %"
            lines.append((words, int(people.sum()), share, f"{alike(shown.features[rows], labels[rows]):.3f}"))
    return table("People, by the share of their images that is recognized", _HEADS, lines)


def _run(given: argparse.Namespace) -> None:
    generated = Manifest.read(given.chain / "score_generated")
    shown = look(generated, given.scorer)
    subsets = {"all": generated, "Diff-Person": Manifest.read(given.chain / "select" / "diff_person")}
    for entry in given.subset:
        label, _, folder = entry.partition("=")
        subsets[label] = Manifest.read(Path(folder))
    print(labels_table(generated, shown, subsets) + "\n" + people_table(generated, shown))


def main(args: list[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Whom generated images show.")
    parser.add_argument("--chain", type=Path, required=True, help="root of the chain that generated them")
    parser.add_argument("--scorer", type=Path, required=True, help="scorer folder that knows all training images")
    parser.add_argument("--subset", action="append", default=[], metavar="LABEL=FOLDER", help="a selection of them")
    parser.add_argument("--threads", type=int, default=1, help="of every operation")
    return run_script(_run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
