"""Small checkpoints in one file, with the names of the original implementation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
_VAE = {
    "conv_norm_out": "norm_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "downsamplers.0.conv": "downsample.conv", "upsamplers.0.conv": "upsample.conv", "conv_shortcut": "nin_shortcut",
    "resnets": "block",
}  # fmt: skip
_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj", "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
}  # fmt: skip


def write_single_file(pipeline: Any, file: Path, metadata: dict[str, str] | None = None, **extra: Tensor) -> Path:
    """Write an SD 1.x or SDXL pipeline as one file.

    Args:
        pipeline: its networks are written.
        file: where to.
        metadata: of the file.
        extra: further tensors by name.
    """
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in _unet(pipeline.unet).items()}
    tensors |= {f"first_stage_model.{name}": tensor for name, tensor in _vae(pipeline.vae).items()}
    second = getattr(pipeline, "text_encoder_2", None)
    first = "cond_stage_model." if second is None else "conditioner.embedders.0."
    tensors |= {f"{first}transformer.{name}": tensor for name, tensor in _published(pipeline.text_encoder).items()}
    if second is not None:
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in _open_clip(second).items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in {**tensors, **extra}.items()}, file, metadata)
    return file


def _published(encoder: Any) -> dict[str, Tensor]:
    prefix = "text_model."
    return {prefix + name.removeprefix(prefix): tensor for name, tensor in encoder.state_dict().items()}


def _renamed(name: str, table: dict[str, str]) -> str:
    for theirs, original in table.items():
        name = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.|$)", rf"\g<1>{original}", name)
    return name


def _unet(unet: Any) -> dict[str, Tensor]:
    layers = unet.config.layers_per_block
    written = {}
    for name, tensor in unet.state_dict().items():
        original = _renamed(name, _UNET)
        place = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        if place:
            way, block, kind, number, rest = place.groups()
            sampler = kind.endswith("samplers")
            number = layers if way == "up" and sampler else int(number)
            if way == "down":
                index = 1 + int(block) * (layers + 1) + (layers if sampler else int(number))
                original = f"input_blocks.{index}.{int(kind == 'attentions')}.{rest.replace('conv', 'op', sampler)}"
            else:
                index = int(block) * (layers + 1) + int(number)
                attends = hasattr(unet.up_blocks[int(block)], "attentions")
                slot = 1 + attends if sampler else int(kind == "attentions")
                original = f"output_blocks.{index}.{slot}.{rest}"
        written[_renamed(original, _RESNET) if "resnets" in name else original] = tensor
    return written


def _vae(vae: Any) -> dict[str, Tensor]:
    blocks = len(vae.config.block_out_channels)
    written = {}
    for name, tensor in vae.state_dict().items():
        original = _renamed(name, _VAE).replace("down_blocks", "down")
        original = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", original)
        written[original] = tensor
    return written


def _open_clip(encoder: Any) -> dict[str, Tensor]:
    written: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in encoder.state_dict().items():
        if name == "text_projection.weight":
            written["text_projection"] = tensor.T
        elif name.endswith("position_embedding.weight"):
            written["positional_embedding"] = tensor
        elif found := re.match(r"text_model\.(.*)self_attn\.([qkv])_proj\.(\w+)", name):
            place = f"{found[1].replace('encoder.layers', 'transformer.resblocks')}attn.in_proj_{found[3]}"
            joined.setdefault(place, {})[found[2]] = tensor
        elif not name.endswith("position_ids"):
            plain = name.removeprefix("text_model.")
            for theirs, original in _CLIP.items():
                plain = plain.replace(theirs, original)
            written[plain] = tensor
    return written | {place: torch.cat([parts[each] for each in "qkv"]) for place, parts in joined.items()}
