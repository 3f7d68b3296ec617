"""Generate and cache prior images with the frozen base model, for the prior-preservation loss."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.devices import computes_bfloat16, fastest_device
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.denoising_loop import guidance_scale
from diffreid_lightning.diffusion.diffusion_sampler import Sampler
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.diffusion.prompt_encoding import encode_prompts, encode_unconditional
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import check_range, translate_disk_errors
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.resumable_array import fill_array, holds_array, map_array

Words = tuple[str, str]  #: (description, circumstances) of an image


class PriorImages(ABC):
    """Images that the frozen base model generates from prompts without an identity, cached as latents.

    Personalization trains on them beside the images of identities: their denoising error is ``L_prior`` in
    ``L_identity + lambda * L_prior`` (DreamBooth, Ruiz et al., arXiv 2208.12242, eq. 2; the sum is
    :func:`~diffreid_lightning.diffusion.losses.prior_preserving_loss`).

    They are generated once: the cache file is named by a hash of model, prompts and settings. An interrupted run
    resumes. An image's noise depends on seed and number only.

    Keep ``guidance`` at 1: only such images follow the distribution that the base model learnt. Guided ones are sharper
    and more saturated; a model trained on them learns this, guidance at generation adds to it, and the model ends up
    further from the base model than without prior images (on tiny-sd, by the distance of its images from the base
    model's; ``experiments.personalization.lpe`` measures it).

    Args:
        steps: sampler steps.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598); 1 is none.
        scheduler: name of a diffusers scheduler; None takes the base model's own.
        draw_at_once: images drawn at once.
        cache_dir: folder of the cached latents.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        steps: int = 25,
        guidance: float = 1.0,
        scheduler: str | None = None,
        draw_at_once: int = 32,
        cache_dir: str = "runs/cache/prior",
    ) -> None:
        check_range(f"{type(self).__name__}.steps", steps, 1, 1000)
        check_range(f"{type(self).__name__}.draw_at_once", draw_at_once, 1)
        self.steps = steps
        self.guidance = guidance_scale(f"{type(self).__name__}.guidance", guidance)
        self.scheduler = scheduler
        self.draw_at_once = draw_at_once
        self.cache_dir = user_path(cache_dir)

    @abstractmethod
    def prompts(self, people: Sequence[Sequence[Words]], template: PromptTemplate, seed: int) -> list[str]:
        """Write one prompt for each image.

        Args:
            people: for each identity the words of its images.
            template: prompt template of training.
            seed: of the random choices.
        """

    def draw(self, model: str, prompts: list[str], image_size: tuple[int, int], seed: int) -> None:
        """Generate the images that are not cached yet; on one process.

        Args:
            model: the base model.
            prompts: P prompts.
            image_size: height and width in pixels.
            seed: of the noise.

        Raises:
            UserError: the base model or the scheduler is not available.
            RunError: the disk is full.
        """
        path = self._path(model, prompts, image_size, seed)
        if holds_array(path, np.float16, (len(prompts), None, None, None)):
            return
        pipeline = load_pipeline(model, _precision()).to(fastest_device())
        pipeline.scheduler = Sampler(pipeline.scheduler, self.scheduler, {}, self.steps).scheduler
        unconditional = encode_unconditional(pipeline, image_size)
        unit = pipeline.vae_scale_factor
        shape = (len(prompts), pipeline.unet.config.in_channels, image_size[0] // unit, image_size[1] // unit)

        @torch.no_grad()
        def latents(start: int, end: int) -> npt.NDArray[np.float16]:
            prompted = encode_prompts(pipeline, prompts[start:end], image_size)
            empty = unconditional.take([0] * (end - start))
            pooled = {}
            if prompted.pooled is not None:
                pooled = {"pooled_prompt_embeds": prompted.pooled, "negative_pooled_prompt_embeds": empty.pooled}
            drawn = pipeline(
                prompt_embeds=prompted.states, negative_prompt_embeds=empty.states, **pooled,
                num_inference_steps=self.steps, guidance_scale=self.guidance,
                height=image_size[0], width=image_size[1], output_type="latent",
                generator=[torch.Generator().manual_seed(_seed(seed, number)) for number in range(start, end)],
            ).images  # fmt: skip
            return drawn.half().cpu().numpy()

        with translate_disk_errors(f"Prior images cannot be written to {self.cache_dir}", "free disk space, run again"):
            fill_array(path, shape, np.float16, self.draw_at_once, latents, f"drawing {len(prompts)} prior images")
        rank_zero_info(f"{len(prompts)} prior images drawn by {model}: {path}")

    def open(self, model: str, prompts: list[str], image_size: tuple[int, int], seed: int) -> npt.NDArray[np.float16]:
        """Memory-map the cached latents, (P, C, h, w), scaled as the denoiser's input."""
        path = self._path(model, prompts, image_size, seed)
        return map_array(
            path, np.float16, (len(prompts), None, None, None), remedy=f"remove {path}: it is written again"
        )

    def _path(self, model: str, prompts: list[str], image_size: tuple[int, int], seed: int) -> Path:
        settings = [list(image_size), seed, self.steps, self.guidance, self.scheduler, self.draw_at_once]
        if _precision() != torch.float32:
            settings.append(str(_precision()))  # half precision gives other images
        work = json.dumps([weights_hash(locate_pipeline(model)), prompts, settings])
        return self.cache_dir / f"{hashlib.sha256(work.encode()).hexdigest()[:24]}.npy"


class FineGrainedPrior(PriorImages):
    """The paper's fine-grain-specific prior: prompts with each identity's own words, without its name.

    Args:
        images_per_identity: prior images of each identity; their prompts take the words of its images in turn.
        kwargs: see :class:`PriorImages`.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, images_per_identity: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("FineGrainedPrior.images_per_identity", images_per_identity, 1, 10_000)
        self.images_per_identity = images_per_identity

    def prompts(self, people: Sequence[Sequence[Words]], template: PromptTemplate, seed: int) -> list[str]:
        """Write prompts from the identities' words; see the base class."""
        nameless = template.without_identity()
        written = []
        for number, words in enumerate(people):
            order = np.random.default_rng([seed, number]).permutation(len(words))
            for place in range(self.images_per_identity):
                description, circumstances = words[order[place % len(words)]]
                written.append(nameless(description=description, circumstances=circumstances))
        return written


class CoarsePrior(PriorImages):
    """DreamBooth's class-specific prior (Ruiz et al., arXiv 2208.12242, section 3.2): one prompt for all images.

    Most DreamBooth scripts generate them with guidance, the pipeline's default; here guidance is off.

    Args:
        images: number of prior images.
        prompt: prompt of all of them.
        kwargs: see :class:`PriorImages`.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, images: int = 200, prompt: str = "a photo of a person", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("CoarsePrior.images", images, 1, 1_000_000)
        self.images = images
        self.prompt = prompt

    def prompts(self, people: Sequence[Sequence[Words]], template: PromptTemplate, seed: int) -> list[str]:
        """Repeat the prompt; see the base class."""
        return [self.prompt] * self.images


def _precision() -> torch.dtype:
    """Return the dtype that prior images are generated in."""
    device = fastest_device()
    return torch.bfloat16 if device.type == "cuda" and computes_bfloat16(device) else torch.float32


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
