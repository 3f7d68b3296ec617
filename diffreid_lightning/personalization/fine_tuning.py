"""Strategies that select the trained weights of a diffusion model. The text vocabulary is never trained."""

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
    """Select the network weights to train, and save them."""

    text_encoder = False  #: train the text encoders as well

    @abstractmethod
    def prepare(self, pipeline: Any) -> None:
        """Mark the trained weights of a frozen pipeline; may add layers."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write the trained weights into a personalized model's folder.

        Args:
            pipeline: the trained pipeline, with the tokenizers of the base model.
            folder: of the personalized model.
            provenance: content of ``provenance.json``.
        """


class FullFineTuning(FineTuning):
    """The whole denoiser (DreamBooth, Ruiz et al., arXiv 2208.12242), and optionally the text encoders.

    The artifact is a whole pipeline.

    Args:
        text_encoder: train the text encoders as well.
    """

    def __init__(self, text_encoder: bool = False) -> None:
        self.text_encoder = text_encoder

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
        super().__init__()

    def prepare(self, pipeline: Any) -> None:
        """Mark the two projections of each attention to the text."""
        for name, module in pipeline.unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                module.requires_grad_(True)


class TokensOnly(FineTuning):
    """Only the identities' vectors (Textual Inversion, Gal et al., arXiv 2208.01618)."""

    def prepare(self, pipeline: Any) -> None:
        """Leave all networks frozen."""

    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write no network; the vectors are saved separately."""


def freeze_unread(pipeline: Any) -> None:
    """Freeze layers without effect: of SDXL's first text encoder the last layer's output is not used.

    DDP waits for a gradient of every trainable parameter.
    """
    if len(encoders := text_encoders(pipeline)) == 1:
        return
    _, first = encoders[0]
    last = f"layers.{first.config.num_hidden_layers - 1}."
    for name, parameter in first.named_parameters():
        if last in name or "final_layer_norm" in name:
            parameter.requires_grad_(False)


def trained_weights(pipeline: Any) -> dict[str, nn.Parameter]:
    """Return the trainable weights by network and path (``unet/down_blocks/0/...``)."""
    networks = {name: getattr(pipeline, name, None) for name in ("unet", *TEXT_ENCODERS)}
    return {
        f"{name}.{place}".replace(".", "/"): parameter
        for name, network in networks.items()
        if network is not None
        for place, parameter in network.named_parameters()
        if parameter.requires_grad
    }
