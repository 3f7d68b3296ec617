"""Images of a diffusion pipeline for given prompts and seeds, kept on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.storage.resumable_array import fill_array
from experiments.instruments.pictures import SIZE, content_key, to_bytes


@dataclass(frozen=True)
class Sampler:
    """Settings by which images are sampled.

    Args:
        steps: of the sampler.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598).
        batch_size: images at a time.
    """

    steps: int = 25
    guidance: float = 4.0
    batch_size: int = 25


def sample(pipeline: Path, prompts: Sequence[str], seeds: Sequence[int], sampler: Sampler, work: Path) -> Tensor:
    """Sample images, or read those sampled before; a killed run goes on with the batch it was at.

    Args:
        pipeline: folder of a Stable Diffusion pipeline.
        prompts: N texts.
        seeds: N seeds of the noise.
        sampler: how.
        work: folder where the images are kept, under the content of all of these.

    Returns:
        (N, 3, H, W) uint8.

    Raises:
        UserError: there is no pipeline.
    """
    key = content_key(weights_hash(locate_pipeline(pipeline)), list(prompts), list(seeds), asdict(sampler), SIZE)
    file = work / f"images-{key}.npy"
    if not file.exists():
        _sample_to(file, pipeline, prompts, seeds, sampler)
    return torch.from_numpy(np.load(file)).permute(0, 3, 1, 2)


def _sample_to(file: Path, pipeline: Path, prompts: Sequence[str], seeds: Sequence[int], sampler: Sampler) -> None:
    model = load_pipeline(pipeline).to(fastest_device())
    model.set_progress_bar_config(disable=True)

    def images(start: int, end: int) -> npt.NDArray[np.uint8]:
        drawn = model(
            list(prompts[start:end]),
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            height=SIZE[0],
            width=SIZE[1],
            output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[start:end]],
        ).images
        return to_bytes(torch.from_numpy(drawn)).numpy()

    count = len(prompts)
    fill_array(file, (count, *SIZE, 3), np.uint8, sampler.batch_size, images, f"sampling {count} images")
