"""What personalising does to prompts that name nobody: how far a model drifts from its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attributes import AttributeNet, agreement, read_attributes
from benchmarks.drawing import Drawing, steps_for
from benchmarks.pictures import SIZE, content_key, fastest_device, read_pictures
from benchmarks.prompts import Prompt, draw_prompts
from benchmarks.tiny_sd import encode_prompts, kernel_distances
from diffreid_lightning.diffusion.diversity import NoDiversity
from diffreid_lightning.diffusion.generation import GenerationModule
from diffreid_lightning.manifest import Manifest
from diffreid_lightning.resumable_array import fill_array


def draw_nobody(model: Path, prompts: list[Prompt], drawing: Drawing, work: Path) -> torch.Tensor:
    """Draw prompts without a name, or read what was drawn before; a killed run goes on with the batch it was at.

    Args:
        model: folder of a personalised model, or of its base.
        prompts: N of them, each with its seed.
        drawing: how.
        work: folder where the images are kept, under the content of all of these.

    Returns:
        (N, 3, H, W) uint8.
    """
    module = GenerationModule(
        model=str(model), image_size=SIZE, scheduler=drawing.scheduler, steps=steps_for(NoDiversity(), drawing),
        guidance=drawing.guidance, diversity=NoDiversity(), dtype=drawing.dtype,
    )  # fmt: skip
    key = content_key(module.work, [asdict(prompt) for prompt in prompts], SIZE, drawing.batch_size)
    file = work / "nobody" / f"{key}.npy"
    if not file.exists():
        fill_array(
            file, (len(prompts), 3, *SIZE), np.uint8, drawing.batch_size, _batches(module, prompts),
            f"drawing {len(prompts)} prompts of nobody",
        )  # fmt: skip
    return torch.from_numpy(np.load(file))


def _batches(module: GenerationModule, prompts: list[Prompt]) -> Callable[[int, int], NDArray[np.uint8]]:
    module.to(fastest_device())

    @torch.no_grad()
    def images(start: int, end: int) -> NDArray[np.uint8]:
        chosen = prompts[start:end]
        drawn = module.draw([(prompt.text,) for prompt in chosen], [prompt.seed for prompt in chosen])
        return drawn.cpu().numpy()

    return images


def measure_drift(
    model: Path, world: Manifest, count: int, drawing: Drawing, attributes: AttributeNet, features: Any, work: Path
) -> dict[str, float]:
    """Measure images of prompts that name nobody; they ask for outfits that the base model was not trained on.

    Args:
        model: folder of a personalised model, or of its base, which the others are compared with.
        world: the corpus that the base model learnt from.
        count: prompts, and as many renders of the corpus's ``val`` people to compare with.
        drawing: how images are drawn.
        attributes: reads them.
        features: the network in whose features KID is measured.
        work: folder where images are kept.

    Returns:
        ``kid`` to the renders; ``agreement``, the share of images on which all that is asked is read so.
    """
    prompts = draw_prompts(world, count)
    images = draw_nobody(model, prompts, drawing, work)
    held_out = np.flatnonzero(np.asarray(world.numpy("split"), dtype=str) == "val")
    chosen = np.sort(np.random.default_rng(7).permutation(held_out)[:count])
    renders = read_pictures(world.take(chosen))
    agreed = agreement(read_attributes(attributes, images), encode_prompts(prompts))["all four"]
    return {
        "kid": kernel_distances(features, renders, {"kid": images})["kid"]["mean"],
        "agreement": agreed.share,
    }
