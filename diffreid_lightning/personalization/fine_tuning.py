"""What of a diffusion model's networks is trained: a choice by class path. The vocabulary never is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffreid_lightning.diffusion.pipeline_io import save_pipeline
from diffreid_lightning.diffusion.prompt_encoding import text_encoders
from diffreid_lightning.personalization.checkpoint import PIPELINE_FOLDER

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class FineTuning(ABC):
    """Chooses the weights that are trained, and writes them.

    Args:
        text_encoder: train the text encoders as well.
    """

    def __init__(self, text_encoder: bool = False) -> None:
        self.text_encoder = text_encoder

    @abstractmethod
    def prepare(self, pipeline: Any) -> None:
        """Mark what is trained, in a pipeline whose weights are all frozen; networks may be added to."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write what was trained into a personalized model's folder.

        Args:
            pipeline: as ``prepare`` left it, trained; with the tokenizers of the base model.
            folder: of the personalized model.
            provenance: how it came about.
        """


class FullFineTuning(FineTuning):
    """The whole denoiser (DreamBooth, Ruiz et al., arXiv 2208.12242), and the text encoders but for their vocabulary.

    The artifact is a whole pipeline.

    Args:
        text_encoder: train the text encoders as well.
    """

    def prepare(self, pipeline: Any) -> None:
        """Mark all weights of the denoiser."""
        pipeline.unet.requires_grad_(True)
        if self.text_encoder:
            for _, encoder in text_encoders(pipeline):
                encoder.requires_grad_(True)
                encoder.get_input_embeddings().requires_grad_(False)

    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``pipeline/``."""
        save_pipeline(pipeline, folder / PIPELINE_FOLDER, provenance)


class CrossAttentionKV(FullFineTuning):
    """Keys and values of the denoiser's attention to the text (Custom Diffusion, Kumari et al., arXiv 2212.04488).

    The artifact is a whole pipeline.
    """

    def __init__(self) -> None:
        super().__init__(text_encoder=False)

    def prepare(self, pipeline: Any) -> None:
        """Mark the two projections of each attention to the text."""
        for name, module in pipeline.unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                module.requires_grad_(True)


class TokensOnly(FineTuning):
    """Nothing but the identities' vectors (Textual Inversion, Gal et al., arXiv 2208.01618)."""

    def __init__(self) -> None:
        super().__init__(text_encoder=False)

    def prepare(self, pipeline: Any) -> None:
        """Mark nothing."""

    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write nothing: the vectors are saved beside."""


def freeze_unread(pipeline: Any) -> None:
    """Unmark what has no part in the answer: of SDXL's first text encoder the states before its last layer are read.

    Processes that train together wait for a gradient of everything that is marked.
    """
    if len(encoders := text_encoders(pipeline)) == 1:
        return
    _, first = encoders[0]
    last = f"layers.{first.config.num_hidden_layers - 1}."
    for name, parameter in first.named_parameters():
        if last in name or "final_layer_norm" in name:
            parameter.requires_grad_(False)


def trained_weights(pipeline: Any) -> dict[str, nn.Parameter]:
    """Return the weights that are marked, named by network and place (``unet/down_blocks/0/...``)."""
    networks = {name: getattr(pipeline, name, None) for name in ("unet", *TEXT_ENCODERS)}
    return {
        f"{name}.{place}".replace(".", "/"): parameter
        for name, network in networks.items()
        if network is not None
        for place, parameter in network.named_parameters()
        if parameter.requires_grad
    }
