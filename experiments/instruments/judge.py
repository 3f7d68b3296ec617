"""The judge: a network that tells MiniPerson's people apart, trained on pictures that no model of the chain sees.

    python -m experiments.instruments.judge --pipeline PIPELINE

It only measures. Its pictures are taken anew, of the 160 training people of each domain; its architecture and its seed
are no other model's. It names one of 320 people, and rank-1 identification is reported

(a) on retaken pictures held out from its training,
(b) on MiniPerson's own training images, which it has never seen,
(c) on the same images after a pass through a pipeline's autoencoder: what any image that this pipeline draws can reach.

Everything is kept in the work folder; a killed run goes on where it was, and :func:`load_judge` reads the judge from
there. Rendering needs the optional extra ``render``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from diffreid_lightning.backbones import Backbone, BNNeck, IdentityClassifier
from diffreid_lightning.backbones.timm_folder import read_safetensors
from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.datasets.concat import IdentityKey
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from diffreid_lightning.reid.losses import label_smoothed_cross_entropy
from experiments.instruments.pictures import SIZE, content_key, outputs, read_pictures, reconstruct, to_floats
from experiments.instruments.reader_training import Recipe, train_once
from experiments.instruments.report import Share, share_of, table, write_json
from experiments.instruments.script import run_script
from tools.miniperson import corpus as plan
from tools.miniperson.corpus import Corpus
from tools.miniperson.render import render
from tools.reader import augment

ARCHITECTURE = "resnet10t"
DOMAINS: tuple[Literal["campus", "station"], ...] = ("campus", "station")
CLASSES = "judge.json"
HELD_OUT = 4
_RECIPE = Recipe(epochs=30, batch_size=64, rate=2e-3, seed=23)


class Judge(nn.Module):
    """A backbone, a batch-norm neck and an identity classifier.

    Args:
        architecture: name of a timm model.
        num_identities: how many people it tells apart.
    """

    def __init__(self, architecture: str, num_identities: int) -> None:
        super().__init__()
        self.backbone = Backbone(architecture, image_size=SIZE, pooling="avg", last_stride=1)
        self.backbone.to(memory_format=torch.channels_last)
        self.neck = BNNeck(self.backbone.num_features)
        self.classifier = IdentityClassifier(self.backbone.num_features, num_identities)

    def logits(self, images: Tensor) -> Tensor:
        """Score every person, (B, C), on images (B, 3, H, W) in 0..1."""
        scores: Tensor = self.classifier(self.neck(self.backbone(images)))
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Judge images.

        Args:
            images: (B, 3, H, W) in 0..1.

        Returns:
            (B, C) log-probabilities.
        """
        return self.logits(images).float().log_softmax(dim=1)


def load_judge(folder: str | Path) -> tuple[Judge, tuple[IdentityKey, ...]]:
    """Load the judge from this benchmark's work folder.

    Returns:
        judge: maps (B, 3, H, W) in 0..1 to (B, C) log-probabilities; in evaluation mode.
        people: (source, partition, pid) of the C classes.

    Raises:
        UserError: it is not there.
    """
    folder = Path(folder)
    if not (folder / CLASSES).is_file():
        raise UserError(
            f"There is no judge in {folder}",
            looked_for=CLASSES,
            remedy="train it: python -m experiments.instruments.judge",
        )
    note = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    people = tuple((str(source), str(partition), int(pid)) for source, partition, pid in note["people"])
    judge = Judge(note["architecture"], len(people))
    judge.load_state_dict(read_safetensors(folder / note["weights"]))
    return judge.eval().requires_grad_(False), people


def retake(corpus: Corpus, images: int, out: Path, workers: int) -> Manifest:
    """Render new pictures of a corpus's training people, or read those that are there.

    Args:
        corpus: whose people.
        images: pictures of each.
        out: folder to render into; a killed run is continued.
        workers: processes.
    """
    if (out / FILE_NAME).exists():
        return Manifest.read(out)
    return render(corpus, out, people=plan.retaken(corpus, images), workers=workers)


def hold_out(labels: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Mark ``count`` rows of every label, drawn at random.

    Raises:
        UserError: a label has no more rows than that.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) <= count:
            raise UserError(
                f"{len(rows)} pictures of a person are too few.",
                looked_for=f"more than the {count} held out",
                remedy="give --images a larger number",
            )
        mask[rng.permutation(rows)[:count]] = True
    return mask


@dataclass(frozen=True)
class Portraits:
    """Pictures with the number of the person in each.

    Args:
        pictures: (N, 3, H, W) uint8.
        labels: (N,) int64, positions in the list of people.
    """

    pictures: Tensor
    labels: npt.NDArray[np.int64]

    def take(self, mask: npt.NDArray[np.bool_]) -> Portraits:
        """The rows where ``mask`` is true."""
        return Portraits(self.pictures[torch.from_numpy(mask)], self.labels[mask])


def people_of(manifests: Sequence[Manifest]) -> tuple[IdentityKey, ...]:
    """Everyone in several manifests, sorted."""
    return tuple(sorted({key for manifest in manifests for key in manifest.identities()[1]}))


def read_portraits(manifests: Sequence[Manifest], people: Sequence[IdentityKey]) -> Portraits:
    """Read the images of several manifests.

    Args:
        manifests: the rows.
        people: the classes; everyone in the manifests is among them.
    """
    number = {key: position for position, key in enumerate(people)}
    labels = []
    for manifest in manifests:
        own, keys = manifest.identities()
        labels.append(np.asarray([number[key] for key in keys], dtype=np.int64)[own])
    return Portraits(torch.cat([read_pictures(manifest) for manifest in manifests]), np.concatenate(labels))


def identification(judge: nn.Module, portraits: Portraits) -> Share:
    """Measure on what share of the pictures the judge names the right person first, with an interval over people."""
    named = outputs(judge, portraits.pictures).argmax(dim=1).numpy()
    return share_of(named == portraits.labels, portraits.labels)


def training_view(pictures: Tensor, generator: Generator) -> Tensor:
    """Augment a batch, (B, 3, H, W) uint8 to 0..1: shifted, mirrored, in slightly other light, covered in part."""
    pictures, _ = augment.shift_and_mirror(pictures, 6, generator)
    return augment.erase(augment.tone(to_floats(pictures), 0.12, 0.02, generator), 0.4, generator)


def _batch_loss(judge: Judge, portraits: Portraits, rows: Tensor, generator: Generator) -> Tensor:
    device = fastest_device()
    logits = judge.logits(training_view(portraits.pictures[rows].to(device), generator))
    return label_smoothed_cross_entropy(logits, torch.from_numpy(portraits.labels)[rows].to(device))


def train_judge(
    retaken: Sequence[Manifest], people: Sequence[IdentityKey], work: Path, recipe: Recipe
) -> tuple[Judge, Share, float]:
    """Train the judge and write it, or load it.

    Args:
        retaken: its pictures.
        people: its classes.
        work: the folder it is kept in.
        recipe: how it is trained.

    Returns:
        The judge, its identification on pictures that were held out, and the seconds that its training took.
    """
    everything = read_portraits(retaken, people)
    held_out = hold_out(everything.labels, HELD_OUT, seed=recipe.seed)
    known = everything.take(~held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        judge = Judge(ARCHITECTURE, len(people))
    hashes = [manifest.content_hash for manifest in retaken]
    file = work / f"judge-{content_key(hashes, ARCHITECTURE, asdict(recipe))}.safetensors"
    weights = np.ones(len(known.labels))
    seconds = train_once(judge, file, partial(_batch_loss, judge, known), weights, recipe)
    note = {"architecture": ARCHITECTURE, "weights": file.name, "people": people, "recipe": asdict(recipe)}
    write_json(work / CLASSES, {**note, "manifests": hashes, "training_images": len(known.labels)})
    return judge, identification(judge, everything.take(held_out)), seconds


def own_images() -> dict[str, Manifest]:
    """MiniPerson's training images by domain."""
    manifests = {domain: MiniPerson(domain).manifest() for domain in DOMAINS}
    return {name: m.filter(np.asarray(m.numpy("split"), dtype=str) == "train") for name, m in manifests.items()}


def measure(
    judge: Judge, people: Sequence[IdentityKey], images: Mapping[str, Manifest], pipeline: Path | None
) -> dict[str, Share]:
    """Identification on images that the judge was not trained on: as they are, by domain, and through an autoencoder.

    Args:
        judge: the judge.
        people: its classes.
        images: the images by domain.
        pipeline: folder of a pipeline or an autoencoder; None leaves (c) out.
    """
    own = read_portraits(list(images.values()), people)
    found = {"own": identification(judge, own)}
    for domain, rows in images.items():
        found[f"own_{domain}"] = identification(judge, read_portraits([rows], people))
    if pipeline is not None:
        found["rebuilt"] = identification(judge, Portraits(reconstruct(pipeline, own.pictures), own.labels))
    return found


def report(held_out: Share, found: Mapping[str, Share], seconds: float, recipe: Recipe) -> str:
    """The table."""
    rows: list[tuple[object, ...]] = [("(a) its own retaken pictures, held out", held_out)]
    rows.append(("(b) MiniPerson's training images", found["own"]))
    rows += [(f"of these, {name.removeprefix('own_')}", found[name]) for name in found if name.startswith("own_")]
    if "rebuilt" in found:
        rows.append(("(c) the same through the autoencoder", found["rebuilt"]))
        rows.append(("(c) / (b)", f"{found['rebuilt'].share / found['own'].share:.3f}" if found["own"].right else "-"))
    note = f"\n{ARCHITECTURE} from random weights, {recipe.epochs} epochs in {seconds / 60:.1f} minutes."
    title = "Rank-1 identification of the judge, with 95 % intervals over people"
    return table(title, ["", "share"], rows) + "\n" + note


def run(work: Path, images: int, epochs: int, pipeline: Path | None, workers: int) -> None:
    """Render, train, measure, print the table and write ``results.json``."""
    retaken = [retake(plan.domain(domain), images, work / f"{domain}-retaken-{images}", workers) for domain in DOMAINS]
    people = people_of(retaken)
    recipe = replace(_RECIPE, epochs=epochs)
    judge, held_out, seconds = train_judge(retaken, people, work, recipe)
    found = measure(judge, people, own_images(), pipeline)
    print(report(held_out, found, seconds, recipe))
    content: dict[str, Any] = {"held_out": held_out, **found, "seconds": seconds, "epochs": epochs, "images": images}
    if "rebuilt" in found and found["own"].right:
        content["kept"] = found["rebuilt"].share / found["own"].share
    write_json(work / "results.json", content)


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Train the judge of identity and measure what an autoencoder keeps.")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments/judge"), help="folder for all that is kept")
    parser.add_argument("--pipeline", type=Path, default=None, help="folder of a pipeline, or of an autoencoder")
    parser.add_argument("--images", type=int, default=24, help="retaken pictures of each person")
    parser.add_argument("--epochs", type=int, default=_RECIPE.epochs, help="of the judge")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")
    return run_script(
        lambda given: run(given.work, given.images, given.epochs, given.pipeline, given.workers),
        parser.parse_args(args),
    )


if __name__ == "__main__":
    sys.exit(main())
