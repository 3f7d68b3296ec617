"""Measure how well a text-to-image model follows prompts about rendered people, and its distance (KID) from renders.

    python -m experiments.generator.tiny_sd --world data/world --pipeline PIPELINE --sheet sheet.png

1. Classifiers of colors and view (:mod:`experiments.instruments.attribute_reader`) and of the sex
   (:mod:`experiments.instruments.figure_reader`) are trained on the corpus's ``train`` rows and measured on identities
   they have not seen, and on the ``val`` rows, whose pairs of colors they have not seen.
2. 1,000 images are sampled for prompts that ask for pairs of colors which ``train`` does not hold.
3. The classifiers read these images. The share that it reads as asked is given with its 95 % Wilson interval.
4. KID (Binkowski et al., arXiv 1801.01401) is measured in pooled features of timm's ``tf_efficientnet_lite0`` with
   ImageNet weights at 128 x 64 pixels, so it cannot be compared with values in Inception's features. All sets are
   compared with the same random half of the ``val`` renders: the other half, its reconstructions by the autoencoder,
   images sampled for its captions, and the images of step 2. The prompts of step 2 give every pair the same share,
   which renders do not: their KID holds that difference too, that of the captions does not.

Everything is kept in the work folder under the content it was made from; a killed run goes on where it was. Needs the
optional extra ``imagenet``.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from diffreid_lightning.backbones import Backbone, load_initial_weights
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.visualization.grid import draw_samples, side_by_side
from experiments.instruments.attribute_labels import VALUES, encode
from experiments.instruments.attribute_reader import (
    AttributeNet,
    TrainedClassifier,
    agreement,
    measured_on_renders,
    read_attributes,
    train_classifier,
)
from experiments.instruments.corpus_parts import parts_of_world
from experiments.instruments.figure_reader import FigureReader, train_figure_reader
from experiments.instruments.pictures import SIZE, read_pictures, reconstruct, to_floats
from experiments.instruments.pipeline_sampling import Sampler, sample
from experiments.instruments.report import Share, table, write_json
from experiments.instruments.script import run_script
from experiments.instruments.unseen_prompts import Prompt, draw_prompts

FEATURES = "tf_efficientnet_lite0"
SUBSETS, SUBSET_SIZE = 100, 500


def kid_features() -> nn.Module:
    """The network in whose features KID is measured: images (B, 3, H, W) in 0..1 to (B, 1280)."""
    network = Backbone(FEATURES, image_size=SIZE, pooling="avg", last_stride=2)
    load_initial_weights(network, "efficientnet-lite0")
    return network.eval()


def kernel_distances(
    features: nn.Module, reference: Tensor, others: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """KID between one set of images and several others.

    Args:
        features: maps (B, 3, H, W) in 0..1 to (B, D).
        reference: (N, 3, H, W) uint8.
        others: (M, 3, H, W) uint8 by name.

    Returns:
        ``mean`` and ``deviation`` over random subsets, and the ``subset_size``, by name.
    """
    size = min(SUBSET_SIZE, *(len(pictures) for pictures in (reference, *others.values())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its memory
        metric = KernelInceptionDistance(features, subsets=SUBSETS, subset_size=size, reset_real_features=False)
    metric.to(fastest_device())
    _feed(metric, reference, real=True)
    found = {}
    for name, pictures in others.items():
        metric.reset()
        _feed(metric, pictures, real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, deviation = metric.compute()
        found[name] = {"mean": float(mean), "deviation": float(deviation), "subset_size": size}
    return found


def _feed(metric: KernelInceptionDistance, pictures: Tensor, real: bool) -> None:
    for batch in pictures.split(64):
        metric.update(to_floats(batch.to(metric.device)), real=real)


def agreement_by_pair(read: Tensor, prompts: Sequence[Prompt]) -> dict[str, dict[str, Share]]:
    """Agreement on the prompts of each color pair.

    Args:
        read: (N, 4) what the classifier reads.
        prompts: N prompts.
    """
    asked = encode_prompts(prompts)
    found = {}
    for pair in sorted({prompt.pair for prompt in prompts}):
        mask = torch.tensor([prompt.pair == pair for prompt in prompts])
        found[" and ".join(pair)] = agreement(read[mask], asked[mask])
    return found


def encode_prompts(prompts: Sequence[Prompt]) -> Tensor:
    """Encode the asked values of prompts, (N, 4) int64, in the order of ``VALUES``."""
    return encode({name: [getattr(prompt, name) for prompt in prompts] for name in VALUES})


def measure_kid(held_out: Manifest, pipeline: Path, prompted: Tensor, sampler: Sampler, work: Path) -> dict[str, Any]:
    """KID of renders, reconstructions and generated images against held-out renders (step 4).

    Args:
        held_out: the ``val`` rows.
        pipeline: folder of the pipeline.
        prompted: (N, 3, H, W) uint8, the images of step 2.
        sampler: how images of captions are sampled.
        work: folder where they are kept.
    """
    order = np.random.default_rng(5).permutation(len(held_out))
    reference, rows = (held_out.take(np.sort(half)) for half in np.array_split(order, 2))
    renders = read_pictures(rows)
    captions = [str(caption) for caption in rows.table["caption"].to_pylist()]
    sets = {
        "the other half of the renders": renders,
        "its reconstructions by the autoencoder": reconstruct(pipeline, renders),
        "images of its captions": sample(pipeline, captions, range(len(captions)), sampler, work),
        "images of the balanced prompts": prompted,
    }
    found = kernel_distances(kid_features(), read_pictures(reference), sets)
    images = {"reference": len(reference), **{name: len(pictures) for name, pictures in sets.items()}}
    return {"features": FEATURES, "images": images, "distances": found}


def contact_sheet(
    prompts: Sequence[Prompt], pipeline: Path, sampler: Sampler, work: Path, columns: int = 6
) -> Image.Image:
    """Draw samples of prompts, each row under its prompt, in two halves side by side and at twice their size.

    Args:
        prompts: one row each.
        pipeline: folder of the pipeline.
        sampler: how.
        work: folder where the samples are kept.
        columns: samples of a prompt.
    """
    texts = [prompt.text for prompt in prompts for _ in range(columns)]
    seeds = [prompt.seed + number for prompt in prompts for number in range(columns)]
    pictures = sample(pipeline, texts, seeds, sampler, work).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(picture) for picture in pictures]
    rows = [(prompt.text, images[columns * row : columns * (row + 1)]) for row, prompt in enumerate(prompts)]
    middle = (len(rows) + 1) // 2
    sheet = side_by_side([draw_samples(half) for half in (rows[:middle], rows[middle:]) if half])
    return sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.BICUBIC)


def sheet_prompts(prompts: Sequence[Prompt], count: int = 12) -> list[Prompt]:
    """Choose prompts for a contact sheet: a new pair each time, views and sexes in turn as far as there are such."""
    chosen: list[Prompt] = []
    for number in range(min(count, len(prompts))):
        wanted = (VALUES["view"][number % 4], VALUES["sex"][number // 4 % 2])
        pairs = [prompt.pair for prompt in chosen]

        def cost(prompt: Prompt, wanted: tuple[str, str] = wanted, pairs: list[tuple[str, str]] = pairs) -> int:
            return 4 * pairs.count(prompt.pair) + 2 * (prompt.view != wanted[0]) + (prompt.sex != wanted[1])

        chosen.append(min((prompt for prompt in prompts if prompt not in chosen), key=cost))
    return chosen


def everything_read(classifier: AttributeNet, figure: FigureReader, pictures: Tensor) -> Tensor:
    """Read colors and view by one classifier, the sex by the other: (N, 4) int64 in the order of :data:`VALUES`."""
    read = read_attributes(classifier, pictures)
    read[:, list(VALUES).index("sex")] = figure.sex(pictures)
    return read


def report(
    classifier: TrainedClassifier,
    figure: FigureReader,
    on_renders: Mapping[str, Mapping[str, Share]],
    generated: Mapping[str, Share],
    kid: Mapping[str, Any],
) -> str:
    """The tables."""
    attributes = table(
        "Attributes: read as labeled or as asked, with 95 % intervals",
        ["", "renders of unseen people", "renders of unseen color pairs", "generated from prompts"],
        [(name, on_renders["held_out"][name], on_renders["val"][name], share) for name, share in generated.items()],
    )
    note = (
        f"\nThe classifier of colors and view ({classifier.parameters / 1e6:.1f} million parameters) was trained on "
        f"{classifier.training_images:,} renders for {classifier.epochs} epochs in {classifier.seconds / 60:.1f} "
        f"minutes, that of the sex ({figure.parameters / 1e6:.1f} million) for {figure.epochs} in "
        f"{figure.seconds / 60:.1f}. Renders in which the person is partly hidden are left out, "
        f"{classifier.occluded:,} in all. They are measured on the colors of plain "
        "garments, which prompts ask for, where no coat covers them."
    )
    distances = table(
        f"KID x 1000 in features of {kid['features']}, ImageNet weights, {SIZE[0]} x {SIZE[1]} pixels",
        ["against a random half of the held-out renders", "mean", "deviation over subsets"],
        [(name, f"{1e3 * k['mean']:.2f}", f"{1e3 * k['deviation']:.2f}") for name, k in kid["distances"].items()],
    )
    return "\n".join([attributes, note, distances])


def run(
    world: Manifest,
    pipeline: Path,
    work: Path,
    sheet: Path | None,
    count: int,
    epochs: int,
    figure_epochs: int,
    sampler: Sampler,
) -> None:
    """Do steps 1 to 4, print the tables, write ``results.json`` and the contact sheet."""
    print("The attribute classifier", flush=True)
    classifier, figure = train_classifier(world, work, epochs), train_figure_reader(world, work, figure_epochs)
    prompts = draw_prompts(world, count)
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    images = sample(pipeline, texts, seeds, sampler, work)
    read = everything_read(classifier.network, figure, images)
    on_renders = measured_on_renders(partial(everything_read, classifier.network, figure), parts_of_world(world))
    generated = agreement(read, encode_prompts(prompts))
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(sheet_prompts(prompts), pipeline, sampler, work).save(sheet)
    held_out = world.filter(np.asarray(world.numpy("split"), dtype=str) == "val")
    kid = measure_kid(held_out, pipeline, images, sampler, work)
    print(report(classifier, figure, on_renders, generated, kid))
    content = {
        "world": world.content_hash,
        "pipeline": weights_hash(locate_pipeline(pipeline)),
        "sampler": asdict(sampler),
        **{
            name: {key: value for key, value in vars(trained).items() if key != "network"}
            for name, trained in (("classifier", classifier), ("figure", figure))
        },
        "on_renders": on_renders,
        "agreement": generated,
        "agreement_by_pair": agreement_by_pair(read, prompts),
        "kid": kid,
    }
    write_json(work / "results.json", content)


def _measure(given: argparse.Namespace) -> None:
    sampler = Sampler(steps=given.steps, guidance=given.guidance)
    world = Manifest.read(given.world)
    run(world, given.pipeline, given.work, given.sheet, given.images, given.epochs, given.figure_epochs, sampler)


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Quality of a text-to-image model of rendered people.")
    parser.add_argument("--world", type=Path, required=True, help="the rendered corpus that the model learnt from")
    parser.add_argument("--pipeline", type=Path, required=True, help="folder of the Stable Diffusion pipeline")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/experiments/tiny_sd"), help="folder for all that is kept"
    )
    parser.add_argument("--sheet", type=Path, default=None, help="PNG file of 12 prompts with 6 samples each")
    parser.add_argument("--images", type=int, default=1000, help="prompts with color pairs that were held out")
    parser.add_argument("--epochs", type=int, default=30, help="of the attribute classifier")
    parser.add_argument("--figure-epochs", type=int, default=25, help="of the classifier of the sex")
    parser.add_argument("--steps", type=int, default=25, help="of the sampler")
    parser.add_argument("--guidance", type=float, default=4.0, help="classifier-free guidance scale")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every operation")
    return run_script(_measure, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
