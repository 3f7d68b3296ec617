"""Measure drift: how far a personalized model departs from its base on prompts without identity tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cosine_similarity

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.generation.diversity import NoDiversity
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.storage.resumable_array import fill_array
from experiments.generator.tiny_sd import encode_prompts, kernel_distances
from experiments.instruments.attribute_labels import VALUES
from experiments.instruments.attribute_reader import AttributeNet, read_attributes
from experiments.instruments.devices import elsewhere
from experiments.instruments.drawing import Drawing, steps_for
from experiments.instruments.pictures import SIZE, content_key, outputs, read_pictures
from experiments.instruments.unseen_prompts import Prompt, draw_prompts

MEASURES = ("kid", "kid_base", "moved", "agreement")
"""What :func:`measure_drift` gives."""

_COUNTED = [place for place, name in enumerate(VALUES) if name != "sex"]


def draw_nobody(model: Path, prompts: list[Prompt], drawing: Drawing, work: Path) -> torch.Tensor:
    """Draw prompts without a name, or read what was drawn before; a killed run goes on with the batch it was at.

    Args:
        model: folder of a personalized model, or of its base.
        prompts: N of them, each with its seed.
        drawing: how.
        work: folder where the images are kept, under the content of all of these.

    Returns:
        (N, 3, H, W) uint8.
    """
    module = GenerationModule(
        model=str(model),
        image_size=SIZE,
        scheduler=drawing.scheduler,
        steps=steps_for(NoDiversity(), drawing),
        guidance=drawing.guidance,
        diversity=NoDiversity(),
        dtype=drawing.dtype,
    )
    key = content_key(module.cache_key, [asdict(prompt) for prompt in prompts], SIZE, drawing.batch_size, *elsewhere())
    file = work / "nobody" / f"{key}.npy"
    if not file.exists():
        fill_array(
            file,
            (len(prompts), 3, *SIZE),
            np.uint8,
            drawing.batch_size,
            _batches(module, prompts),
            f"drawing {len(prompts)} prompts of nobody",
        )
    return torch.from_numpy(np.load(file))


def _batches(module: GenerationModule, prompts: list[Prompt]) -> Callable[[int, int], NDArray[np.uint8]]:
    module.to(fastest_device())

    @torch.no_grad()
    def images(start: int, end: int) -> NDArray[np.uint8]:
        chosen = prompts[start:end]
        drawn = module.draw([(prompt.text,) for prompt in chosen], [prompt.seed for prompt in chosen])
        return drawn.pictures.cpu().numpy()

    return images


def measure_drift(
    model: Path,
    base: Path,
    world: Manifest,
    count: int,
    drawing: Drawing,
    attributes: AttributeNet,
    features: nn.Module,
    work: Path,
) -> dict[str, float]:
    """Measure images of prompts that name nobody; they ask for outfits that the base model was not trained on.

    KID to renders also tells how much guidance the images have, and falls where a model answers the prompt less: what
    a model has become is better seen against the base model's own images of the same prompts from the same noise.

    Args:
        model: folder of a personalized model, or of its base.
        base: folder of its base.
        world: the corpus that the base model learnt from.
        count: prompts, and as many renders of the corpus's ``val`` people to compare with.
        drawing: how images are drawn.
        attributes: reads them.
        features: the network in whose features images are compared.
        work: folder where images are kept.

    Returns:
        ``kid`` to the renders and ``kid_base`` to the base model's images; ``moved``, the mean cosine distance from the
        base model's image of the same prompt and noise, 0 to 2; ``agreement``, the share of images on which both
        colors and the view are read as asked. The sex is left out: this classifier often misreads it.
    """
    prompts = draw_prompts(world, count)
    images, before = (draw_nobody(folder, prompts, drawing, work) for folder in (model, base))
    held_out = np.flatnonzero(np.asarray(world.numpy("split"), dtype=str) == "val")
    chosen = np.sort(np.random.default_rng(7).permutation(held_out)[:count])
    renders = read_pictures(world.take(chosen))
    hits = (read_attributes(attributes, images) == encode_prompts(prompts))[:, _COUNTED]
    similarities = cosine_similarity(outputs(features, images).float(), outputs(features, before).float())
    return {
        "kid": kernel_distances(features, renders, {"kid": images})["kid"]["mean"],
        "kid_base": kernel_distances(features, before, {"kid": images})["kid"]["mean"],
        "moved": 1 - float(similarities.mean()),
        "agreement": float(hits.all(dim=1).float().mean()),
    }
