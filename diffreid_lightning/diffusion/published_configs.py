"""Write configurations of the published Stable Diffusion families, which single-file checkpoints lack."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from tokenizers.pre_tokenizers import ByteLevel

Family = Literal["sd1", "sd2", "sdxl"]

_START, _END = "<|startoftext|>", "<|endoftext|>"
_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
_CLIP = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "model_type": "clip_text_model",
}
_CLIP_L = {
    **_CLIP,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
_CLIP_H = {  # without its last layer
    **_CLIP,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
_CLIP_G = {
    **_CLIP,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
# Omitted values are the defaults of the class.
_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
}
_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
_PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_PNDM = {
    **_BETAS,
    "_class_name": "PNDMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
}
_ZERO_SNR = {
    **_BETAS,
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": False,
    "timestep_spacing": "trailing",
}
_CONFIGS: dict[Family, dict[str, dict[str, Any]]] = {
    "sd1": {
        "": _PIPELINE,
        "unet": {**_UNET, "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64},
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": _CLIP_L,
        "scheduler": _PNDM,
    },
    "sd2": {
        "": _PIPELINE,
        "unet": {
            **_UNET,
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "sample_size": 96,
            "use_linear_projection": True,
        },
        "vae": {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
        "text_encoder": _CLIP_H,
        "scheduler": _PNDM,
    },
    "sdxl": {
        "": {
            **_PIPELINE,
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        },
        "unet": {
            **_UNET,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
        },
        "vae": {**_VAE, "force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G,
        "scheduler": {
            **_BETAS,
            "_class_name": "EulerDiscreteScheduler",
            "interpolation_type": "linear",
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
        },
    },
}
_PADS: dict[Family, dict[str, str]] = {
    "sd1": {"tokenizer": _END},
    "sd2": {"tokenizer": "!"},
    "sdxl": {"tokenizer": _END, "tokenizer_2": "!"},
}


def write_configs(family: Family, prediction_type: str, zero_snr: bool, folder: Path) -> None:
    """Write the folder of a family's pipeline, without its weights.

    Args:
        family: of checkpoints.
        prediction_type: ``epsilon`` or ``v_prediction``.
        zero_snr: whether the last timestep is pure noise (Lin et al., arXiv 2305.08891).
        folder: an empty folder.
    """
    for part, config in _CONFIGS[family].items():
        name = {"": "model_index.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
        if part == "scheduler":
            config = {**(_ZERO_SNR if zero_snr else config), "prediction_type": prediction_type}
        if part == "" and zero_snr:
            config = {**config, "scheduler": ["diffusers", "DDIMScheduler"]}
        (folder / part).mkdir(exist_ok=True)
        (folder / part / name).write_text(json.dumps(config), encoding="utf-8")
    for part, pad in _PADS[family].items():
        _write_tokenizer(folder / part, pad)


def _write_tokenizer(folder: Path, pad: str) -> None:
    """Write CLIP's tokenizer: the bytes, the bytes that end a word, the merges, and two special tokens."""
    packed = files(__package__).joinpath("published").joinpath("clip_merges.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8")
    units = sorted(ByteLevel.alphabet())
    words = [*units, *(f"{unit}</w>" for unit in units), *(line.replace(" ", "") for line in merges.splitlines())]
    numbers = {word: number for number, word in enumerate([*words, _START, _END])}
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    folder.mkdir()
    for name, content in (
        ("vocab.json", numbers),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
