"""Checkpoints of a few thousand random weights in the layouts of SD 1.x, SD 2.x and SDXL, and people to teach them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from diffreid_lightning.diffusion.architectures import build_autoencoder, build_text_encoder, build_unet
from diffreid_lightning.diffusion.folder import assemble_pipeline
from diffreid_lightning.manifest import Manifest
from tests.diffusion.conftest import AUTOENCODER, SIZE, TEXT, UNET

LAYOUTS = ("sd1", "sd2", "sdxl")
_NOISE = {
    "steps_offset": 1,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
_SD2 = {"use_linear_projection": True, "attention_head_dim": [2, 4]}
_XL = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "cross_attention_dim": 16 + 24,
    "projection_class_embeddings_input_dim": 6 * 4 + 20,
}  # fmt: skip
#: description and circumstances, by identity; somebody without either, and somebody without circumstances
PEOPLE = (
    ("a woman in a red coat", "seen from behind"),
    ("a man in blue jeans", "at night"),
    ("a boy", ""),
    (None, None),
)


def write_checkpoint(folder: Path, layout: str, tokenizer_folder: Path) -> Path:
    """Write a random checkpoint, the same each time."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    parts: dict[str, Any] = {
        "vae": build_autoencoder(AUTOENCODER),
        "unet": build_unet({**UNET, **{"sd1": {}, "sd2": _SD2, "sdxl": _XL}[layout]}),
        "text_encoder": build_text_encoder(TEXT, tokenizer),
        "tokenizer": tokenizer,
    }
    if layout == "sdxl":
        config = CLIPTextConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=20,
            vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        second = CLIPTokenizer.from_pretrained(tokenizer_folder, pad_token="!")
        pipeline = StableDiffusionXLPipeline(
            **parts, scheduler=EulerDiscreteScheduler(**{k: v for k, v in _NOISE.items() if k != "clip_sample"}),
            text_encoder_2=CLIPTextModelWithProjection(config), tokenizer_2=second, add_watermarker=False,
        )  # fmt: skip
    else:
        kind = "v_prediction" if layout == "sd2" else "epsilon"
        pipeline = assemble_pipeline(**parts, scheduler=DDIMScheduler(**_NOISE, prediction_type=kind))
    pipeline.save_pretrained(folder)
    return folder


def with_scheduler(folder: Path, scheduler: Any) -> Path:
    """Put another scheduler into a checkpoint's folder."""
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def write_people(folder: Path, images: int = 4) -> Path:
    """Write a captioned manifest of four people to train on and two to test on, of whom one is a distractor."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("file_name", "pid", "split", "partition", "role", "description", "circumstances", "caption")
    }
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for pid in range(7):
        colour = rng.integers(0, 255, 3)
        for number in range(images):
            name = f"images/{pid:04d}_{number}.png"
            Image.fromarray(np.clip(colour + rng.normal(0, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)).save(
                folder / name
            )
            description, circumstances = PEOPLE[pid - 1] if 0 < pid <= len(PEOPLE) else ("somebody else", "")
            split = "train" if 0 < pid <= len(PEOPLE) else ("query" if pid and number == 0 else "gallery")
            rows["file_name"].append(name)
            rows["pid"].append(pid)
            rows["split"].append(split)
            rows["partition"].append("train" if split == "train" else "test")
            rows["role"].append("identity" if pid else "distractor")
            rows["description"].append(description)
            rows["circumstances"].append(circumstances if number % 2 else "")
            rows["caption"].append(None if description is None else f"{description}, {circumstances}")
    Manifest.from_columns(folder, {**rows, "source": "toy", "camid": 1}).write(folder)
    return folder
