"""A loop over people that calls diffusers' own pipeline, as its users write it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.diffusion_sampler import Sampler
from diffreid_lightning.diffusion.lora_files import merge_lora
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.checkpoint import load_personalized
from experiments.instruments.pictures import SIZE


@dataclass(frozen=True)
class StockLoop:
    """Settings of the loop.

    Args:
        steps: of the sampler.
        guidance: scale of classifier-free guidance, at every step.
        scheduler: the sampler, by its name in diffusers; None keeps the model's own.
        dtype: precision of the networks.
    """

    steps: int
    guidance: float
    scheduler: str | None
    dtype: str = "float32"


def stock_rate(
    model: Path, wanted: Manifest, loop: StockLoop, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Draw the same prompts person by person with a stock pipeline and save the images as JPEG.

    Args:
        model: folder of a personalized model; its LoRA is fused.
        wanted: the images that are drawn, by their columns ``prompt`` and ``seed``.
        loop: how.
        folder: where to.
        clock: seconds so far, of the wall or of the processor.

    Returns:
        Images per second; loading the model does not count.
    """
    pipeline: Any = merge_lora(load_personalized(model).pipeline).to(fastest_device(), getattr(torch, loop.dtype))
    pipeline.scheduler = Sampler(pipeline.scheduler, loop.scheduler, {}, loop.steps).scheduler
    pipeline.set_progress_bar_config(disable=True)
    labels, keys = wanted.identities()
    prompts = [prompt.replace(" AND ", ", ") for prompt in wanted.table["prompt"].to_pylist()]
    seeds = wanted.table["seed"].to_pylist()
    folder.mkdir(parents=True, exist_ok=True)
    started = clock()
    for person in range(len(keys)):
        rows = [row for row, label in enumerate(labels.tolist()) if label == person]
        images = pipeline(
            [prompts[row] for row in rows],
            num_inference_steps=loop.steps,
            guidance_scale=loop.guidance,
            height=SIZE[0],
            width=SIZE[1],
            generator=[torch.Generator().manual_seed(seeds[row]) for row in rows],
        ).images
        for row, image in zip(rows, images, strict=True):
            image.save(folder / f"{row:06d}.jpg", quality=95)
    return len(prompts) / (clock() - started)
