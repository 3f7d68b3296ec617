"""LoRA (Hu et al., arXiv 2106.09685) on a diffusion model, saved in the format of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from diffreid_lightning.diffusion.lora_files import LORA_FILE
from diffreid_lightning.diffusion.prompt_encoding import text_encoders
from diffreid_lightning.errors import check_range
from diffreid_lightning.personalization.checkpoint import LORA_FOLDER
from diffreid_lightning.personalization.fine_tuning import TEXT_ENCODERS, FineTuning

# Projections by name suffix, as peft matches them; a pattern where both kinds of attention share the suffix.
_UNET: dict[str, list[str] | str] = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "cross_attention": r".*attn2\.(to_q|to_k|to_v|to_out\.0)",
    "all": [
        "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
        "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
    ],
}  # fmt: skip
_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
_PREFIX = "text_model."


class LoRA(FineTuning):
    """Low-rank updates of the attention projections in the denoiser, optionally in the text encoders.

    Alpha equals the rank, so loaders need no scale.

    Args:
        rank: of each update.
        layers: ``attention`` adapts the attention to the image itself and to the text, ``cross_attention`` the latter;
            ``all`` also the feed-forward and convolutional layers, as published LCM-LoRAs do (arXiv 2311.05556).
        text_encoder: adapt the text encoders as well.
        dropout: share of the updates' inputs that is dropped in training, 0 to 1.
    """

    def __init__(
        self,
        rank: int = 16,
        layers: Literal["attention", "cross_attention", "all"] = "attention",
        text_encoder: bool = False,
        dropout: float = 0.0,
    ) -> None:
        check_range("LoRA.rank", rank, 1, 4096)
        check_range("LoRA.dropout", dropout, 0, 1, below=True)
        self.rank = rank
        self.layers = layers
        self.text_encoder = text_encoder
        self.dropout = dropout

    def prepare(self, pipeline: Any) -> None:
        """Add the trainable layers, initialized to no change."""
        pipeline.unet.add_adapter(self._config(_UNET[self.layers]))
        if self.text_encoder:
            for _, encoder in text_encoders(pipeline):
                encoder.add_adapter(self._config(_TEXT))

    def save(self, pipeline: Any, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``lora/pytorch_lora_weights.safetensors``."""
        self.save_in(pipeline, folder / LORA_FOLDER)

    def save_in(self, pipeline: Any, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors`` into a folder."""
        layers = {"unet_lora_layers": _state(pipeline.unet)}
        if self.text_encoder:
            for name, (_, encoder) in zip(TEXT_ENCODERS, text_encoders(pipeline), strict=False):
                # transformers 5 renamed the text encoders' layers; all loaders know the published names.
                layers[f"{name}_lora_layers"] = {
                    place if place.startswith(_PREFIX) else _PREFIX + place: tensor
                    for place, tensor in _state(encoder).items()
                }
        pipeline.save_lora_weights(folder, weight_name=LORA_FILE, **layers)

    def _config(self, targets: list[str] | str) -> LoraConfig:
        return LoraConfig(
            r=self.rank, lora_alpha=self.rank, lora_dropout=self.dropout, init_lora_weights="gaussian",
            target_modules=targets,
        )  # fmt: skip


def _state(network: Any) -> dict[str, torch.Tensor]:
    # By default peft asks the hub whether the vocabulary grew.
    found = get_peft_model_state_dict(network, save_embedding_layers=False)
    state = convert_state_dict_to_diffusers(dict(found))
    if any(".lora_A." in name for name in state):
        # Only attention was renamed, and loaders drop it from a file of both kinds of names.
        state = found
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
