"""Generate images of identities, with a personalized model or with a plain one from descriptions."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from threading import Event
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from diffreid_lightning.devices import computes_bfloat16, fastest_device
from diffreid_lightning.diffusion.batches_on_threads import map_on_threads
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.cpu_layers import use_onednn
from diffreid_lightning.diffusion.denoising_loop import (
    Decoded,
    Guidance,
    decodable_size,
    decode_latents,
    denoise,
    encode_images,
    guidance_scale,
    limit_guidance,
    not_finite,
)
from diffreid_lightning.diffusion.diffusion_sampler import Sampler, initial_noise
from diffreid_lightning.diffusion.pipeline_io import PROVENANCE
from diffreid_lightning.diffusion.prompt_cache import PromptCache
from diffreid_lightning.diffusion.prompt_encoding import text_encoders, tokenize
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import UserError, check_pair, check_range
from diffreid_lightning.generation.datamodule import PromptBatch, PromptsDataModule
from diffreid_lightning.generation.diversity import ComposedGuidance, Diversity, ImageRequest
from diffreid_lightning.generation.loaded_model import check_student, load_model
from diffreid_lightning.manifest.provenance import find_manifest_hashes, read_provenance
from diffreid_lightning.paths import user_path
from diffreid_lightning.training.trainer_parts import require_datamodule

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CHECKED_TOGETHER = 1024  # prompts tokenized at a time before the run
_CPU_PART = 16  # images per part of a batch on a CPU; with 8, threads wait for Python's lock as long as they save


class GeneratedBatch(NamedTuple):
    """Generated images with their manifest rows."""

    number: int  #: of the batch in the plan
    rows: pa.Table  #: B rows: source, partition, pid, number, caption, prompt, attributes, seed, generator
    images: Tensor  #: (B, 3, H, W) uint8 on the CPU
    finite: Tensor  #: (B,) bool: an image was drawn


class GenerationModule(LightningModule):
    """Generate the images requested by a :class:`~diffreid_lightning.generation.datamodule.PromptsDataModule`.

    Each batch is denoised from seeded noise (or reference images) under the prompts and per-timestep weights of the
    diversity strategy, then decoded. An image's noise depends only on its seed, and batches are fixed by the plan, so a
    repeated run on one machine gives the same pixels.

    Args:
        model: a personalized model's folder; or a plain checkpoint (folder, hub id, ``tiny-sd``), which knows
            identities only by their descriptions.
        base: base model of a personalized model; None takes the path noted in training.
        adapters: LoRAs that are added to the model's weights, such as a published LCM-LoRA: ``.safetensors`` files,
            folders with ``pytorch_lora_weights.safetensors``, or hub ids.
        image_size: height and width in pixels; on the command line it is set as ``data.image_size``.
        scheduler: sampler: a class of diffusers by name, or an importable path; None keeps the checkpoint's.
        scheduler_options: arguments that differ from the checkpoint's configuration.
        steps: sampler steps.
        guidance: scale of classifier-free guidance (Ho and Salimans, arXiv 2207.12598), 1 or more; 1 and 0 turn it off,
            as in model cards of distilled checkpoints.
        guidance_interval: part of the process in which prompts guide, as shares of the steps: 0 is the first (noise), 1
            the end of the last (image). Outside it an image takes one evaluation of the denoiser per step
            (Kynkäänniemi et al., arXiv 2404.07724).
        rescale: guidance rescale, which reduces the added contrast (Lin et al., arXiv 2305.08891), 0 to 1.
        diversity: strategy of Diversity Injection; None is
            :class:`~.diversity.composed_guidance.ComposedGuidance`.
        template: prompt template; None takes that of training.
        dtype: precision of the networks; ``auto`` is bfloat16 where the GPU, or the CPU where there is none, has
            instructions for it, else float32. The latents between steps are float32, and the trainer's precision stays
            32. A run continues in the precision that it began with, also on another machine, or is refused.
        channels_last: use the channels-last memory format, which is faster on most devices.
        kept_prompts: size of the cache of encoded prompts.
        decoded_together: images that the autoencoder encodes or decodes at a time; on a CPU, on each thread.

    Raises:
        UserError: model, scheduler or sizes cannot be used.
    """

    def __init__(
        self,
        model: str,
        base: str | None = None,
        adapters: Sequence[str] = (),
        image_size: tuple[int, int] = (256, 128),
        scheduler: str | None = "DPMSolverMultistepScheduler",
        scheduler_options: dict[str, Any] | None = None,
        steps: int = 25,
        guidance: float = 5.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        diversity: Diversity | None = None,
        template: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        channels_last: bool = True,
        kept_prompts: int = 1024,
        decoded_together: int = 32,
    ) -> None:
        super().__init__()
        if dtype == "auto":
            dtype = "bfloat16" if computes_bfloat16(fastest_device()) else "float32"
        check_range("model.steps", steps, 1, 1000)
        check_range("model.rescale", rescale, 0, 1)
        check_range("model.kept_prompts", kept_prompts, 1, 1_000_000)
        check_range("model.decoded_together", decoded_together, 1, 100_000)
        loaded = load_model(model, base, adapters)
        pipeline = loaded.pipeline
        self._model, self._pipeline = model, pipeline
        self._people = {each.key: each for each in loaded.identities} or None  # None: a plain checkpoint
        self.generator = loaded.content_hash
        self.template = loaded.template if template is None else PromptTemplate(template)
        if self._people is not None:
            self.template.require_identity()
        # Registered, so that Lightning moves them and they can be compiled by name.
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.text_encoders = torch.nn.ModuleList(encoder for _, encoder in text_encoders(pipeline))
        # The LoRA was merged in float32, before this cast.
        self.requires_grad_(False).eval().to(_DTYPES[dtype])
        if dtype == "float16" and self.vae.config.force_upcast:
            self.vae.float()  # it overflows in half precision
        self.image_size = decodable_size(self.vae, image_size)
        self.sampler = Sampler(pipeline.scheduler, scheduler, scheduler_options or {}, steps)
        self.guidance = guidance_scale("model.guidance", guidance)
        check_pair("model.guidance_interval", guidance_interval, 0, 1, apart=True)
        self.guidance_interval = (float(guidance_interval[0]), float(guidance_interval[1]))
        self.rescale = rescale
        self.diversity = diversity or ComposedGuidance()
        if loaded.student:
            calls = steps - self.diversity.count_skipped(steps)
            check_student(model, self.sampler.scheduler, calls, self.evaluations)
        self.decoded_together = decoded_together
        self._settings = {"dtype": dtype, "channels_last": channels_last}
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)
            self.vae.to(memory_format=torch.channels_last)
        use_onednn(self)
        self._prompts = PromptCache(self._pipeline, self.image_size, kept_prompts)

    @property
    def cache_key(self) -> dict[str, Any]:
        """Settings that determine the images, besides the requests."""
        return {
            "generator": self.generator,
            "scheduler": self.sampler.cache_key,
            "guidance": self.guidance,
            "guidance_interval": list(self.guidance_interval),
            "rescale": self.rescale,
            "diversity": {"class": type(self.diversity).__qualname__, **self.diversity.settings},
            "template": self.template.text,
            **self._settings,
        }

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Content hashes of the manifests in the model's provenance; not its base model's."""
        folder = user_path(self._model) if self._people is not None else locate_pipeline(self._model)
        return tuple(find_manifest_hashes(read_provenance(folder / PROVENANCE)))

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the denoiser per image."""
        steps = self.sampler.steps
        calls = self.sampler.count_calls(self.diversity.count_skipped(steps))
        return self.diversity.evaluations(steps, self.guidance, self.guidance_interval, calls)

    def on_predict_start(self) -> None:
        """Check data, precision, identities and prompts before the first batch."""
        data = require_datamodule(self.trainer, PromptsDataModule, type(self).__name__)
        if self.trainer.precision != "32-true":
            raise UserError(
                f"Images are not generated under trainer.precision {self.trainer.precision}.",
                remedy="leave it at 32 and choose model.dtype: bfloat16 is faster on a GPU",
            )
        if self.diversity.uses_reference and not data.references:
            raise UserError(
                f"{type(self.diversity).__name__} starts from real images, which are not loaded.",
                remedy="set data.references to true",
            )
        self._check_people(data)
        self._check_prompts(data)
        rank_zero_info(f"{self.evaluations} evaluations of the denoiser per image")

    def prompts(self, request: ImageRequest) -> tuple[str, ...]:
        """Write the prompts of a request for this model.

        Raises:
            KeyError: the model does not know the identity.
        """
        name = "" if self._people is None else self._people[request.key].name
        return self.diversity.prompts(self.template, name, self._fill_description(request))

    def caption(self, request: ImageRequest) -> str:
        """Write the caption of an image, without an identity token."""
        described = self._fill_description(request)
        plain = self.template.without_identity()
        return plain(description=described.description, circumstances=self.diversity.circumstances(described))

    def _fill_description(self, request: ImageRequest) -> ImageRequest:
        """Add the model's description of an identity that the data do not describe."""
        if request.description or self._people is None:
            return request
        return request._replace(description=self._people[request.key].description)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> GeneratedBatch:
        """Generate a batch."""
        prompts = [self.prompts(request) for request in batch.requests]
        drawn = self.draw(prompts, [request.seed for request in batch.requests], batch.references)
        return GeneratedBatch(batch.number, self._rows(batch.requests, prompts), drawn.pictures.cpu(), drawn.finite)

    def draw(self, prompts: Sequence[Sequence[str]], seeds: Sequence[int], references: Tensor | None = None) -> Decoded:
        """Generate images.

        Args:
            prompts: for each of B images the strategy's prompts.
            seeds: of their noise.
            references: (B, 3, H, W) uint8 real images, if the strategy starts from them.

        Returns:
            (B, 3, H, W) uint8 on the module's device, and which of them are finite.

        Raises:
            RunError: there are several images, and none is finite.
        """
        # 1. Encode every distinct prompt once.
        count = len(seeds)
        texts = self._prompts([prompt for slot in zip(*prompts, strict=True) for prompt in slot])
        slots = [texts.take(range(start, start + count)) for start in range(0, len(prompts[0]) * count, count)]
        # 2. Draw the noise from one generator per image; stochastic samplers use it further.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        skipped = self.diversity.count_skipped(self.sampler.steps)
        timesteps = self.sampler.begin(skipped)
        unit = 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (self.unet.config.in_channels, self.image_size[0] // unit, self.image_size[1] // unit)
        noise = initial_noise(generators, shape).to(self.device)
        if self.diversity.uses_reference:
            if references is None:
                raise ValueError(f"{type(self.diversity).__name__} starts from references")
            encoded = [encode_images(self.vae, some) for some in references.split(self.decoded_together)]
            latents = self.sampler.start(noise, timesteps, torch.cat(encoded))
        else:
            latents = self.sampler.start(noise, timesteps)
        # 3. Denoise with guidance. 4. Decode.
        weights = self.diversity.weights(len(timesteps), self.guidance, seeds)
        weights = limit_guidance(weights, self.guidance_interval, skipped / self.sampler.steps)
        guidance = Guidance(self._prompts.unconditional(count), slots, weights, self.rescale)
        drawn = self._finish(guidance, latents, timesteps, generators)
        if count > 1 and not drawn.finite.any():
            raise not_finite(count, count, self.vae.dtype)
        return drawn

    def _finish(
        self, guidance: Guidance, latents: Tensor, timesteps: Tensor, generators: Sequence[torch.Generator]
    ) -> Decoded:
        """Denoise and decode a batch; on a CPU in parts, the same ones for every number of threads."""

        def finish(part: range, stop: Event) -> Decoded:
            sampler = copy.deepcopy(self.sampler)  # it holds the last steps of its images
            rows = slice(part.start, part.stop)
            images = denoise(self.unet, sampler, guidance.take(part), latents[rows], timesteps, generators[rows], stop)
            return decode_latents(self.vae, images, self.decoded_together)

        size = _CPU_PART if self.device.type == "cpu" else len(latents)
        parts = [range(len(latents))[start : start + size] for start in range(0, len(latents), size)]
        return Decoded.cat(map_on_threads(finish, parts))

    def _rows(self, requests: Sequence[ImageRequest], prompts: Sequence[Sequence[str]]) -> pa.Table:
        source, partition, pid = zip(*(request.key for request in requests), strict=True)
        asked = [self.diversity.attributes(request) for request in requests]
        return pa.table(
            {
                "source": pa.array(source, pa.string()),
                "partition": pa.array(partition, pa.string()),
                "pid": pa.array(pid, pa.int64()),
                "number": pa.array([request.number for request in requests], pa.int64()),
                "caption": pa.array([self.caption(request) for request in requests], pa.string()),
                "prompt": pa.array([" AND ".join(each) for each in prompts], pa.string()),
                "attributes": pa.array([json.dumps(each, ensure_ascii=False) for each in asked], pa.string()),
                "seed": pa.array([request.seed for request in requests], pa.int64()),
                "generator": pa.array([self.generator] * len(requests), pa.string()),
            }
        )

    def _check_people(self, data: PromptsDataModule) -> None:
        """Check that the model knows all identities, by name or by description."""
        unknown = [each.key for each in data.people if self._people is not None and each.key not in self._people]
        if unknown:
            names = ", ".join("/".join(map(str, key)) for key in unknown[:4])
            raise UserError(
                f"The model was not personalized for {len(unknown)} of {len(data.people)} identities.",
                looked_for=f"tokens for {names}{' and more' if len(unknown) > 4 else ''} (source/partition/pid)",
                found=f"{len(self._people or ())} identities in {self._model}",
                remedy="choose others with data.identities and data.splits, or personalize a model with these",
            )
        if self._people is None and not any(each.description for each in data.people):
            raise UserError(
                "A model without personalization needs descriptions of the identities, and there are none.",
                looked_for=f"the column 'description' in the manifest of {data.manifest.root}",
                remedy="caption the images first (predict --config stages/caption), or personalize the model",
            )

    def _check_prompts(self, data: PromptsDataModule) -> None:
        """Tokenize every distinct prompt once, to refuse one that is too long before the run."""
        if not data.rows_left:
            return
        tokenizers = [tokenizer for tokenizer, _ in text_encoders(self._pipeline)]
        seen: set[int] = set()  # hashes, not texts: there may be millions
        new: list[str] = []
        for row in range(data.rows):
            for prompt in self.prompts(data.request(row)):
                if hash(prompt) not in seen:
                    seen.add(hash(prompt))
                    new.append(prompt)
            if len(new) >= _CHECKED_TOGETHER or (new and row == data.rows - 1):
                for tokenizer in tokenizers:
                    tokenize(tokenizer, new)
                new = []
