"""Hold the pipeline that is fine-tuned, outside the module's state dict."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from diffreid_lightning.diffusion.pipeline_io import Pipeline
from diffreid_lightning.diffusion.prompt_cache import PromptCache
from diffreid_lightning.diffusion.prompt_encoding import (
    Conditioning,
    encode_prompts,
    encode_unconditional,
    text_encoders,
)


class HeldPipeline:
    """The pipeline, outside the module's state dict; copies of the module (weight averages) share it.

    Args:
        pipeline: before the identities' names are added.
        image_size: height and width in pixels.
    """

    def __init__(self, pipeline: Pipeline, image_size: tuple[int, int]) -> None:
        self.pipeline = pipeline
        self.image_size = image_size
        self.cached_prompts = PromptCache(pipeline, image_size, capacity=1024)
        names = [name for name in ("tokenizer", "tokenizer_2") if getattr(pipeline, name, None) is not None]
        self.tokenizers = {name: copy.deepcopy(getattr(pipeline, name)) for name in names}  # before names are added

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldPipeline:
        return self

    def networks(self) -> Iterable[Any]:
        """Return denoiser, autoencoder and text encoders."""
        return (self.pipeline.unet, self.pipeline.vae, *(encoder for _, encoder in text_encoders(self.pipeline)))

    def encode(self, prompts: list[str]) -> Conditioning:
        """Encode each distinct prompt once, with gradients; B prompts in order."""
        distinct = sorted(set(prompts) - {""})
        # The empty prompt comes first: it also looks an identity up, so every parameter gets a gradient.
        parts = [encode_unconditional(self.pipeline, self.image_size)] if "" in prompts else []
        if distinct:
            parts.append(encode_prompts(self.pipeline, distinct, self.image_size))
        places = {prompt: place for place, prompt in enumerate([""] * ("" in prompts) + distinct)}
        return Conditioning.cat(parts).take([places[prompt] for prompt in prompts])
