"""A captioned corpus of a few small pictures, and networks that fit it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from diffreid_lightning.diffusion.architectures import (
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from diffreid_lightning.diffusion.tokenizer import train_tokenizer
from diffreid_lightning.manifest import Manifest

SIZE = (32, 16)
AUTOENCODER = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 32,
}
UNET = {
    "sample_size": [16, 8],
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NOISE = {"prediction_type": "v_prediction", "clip_sample": False, "timestep_spacing": "trailing", "steps_offset": 1}
CAPTIONS = ("a woman in a red coat, seen from behind", "a man in blue jeans, at night", "a boy, walking")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 20 captioned pictures, 16 to train on and 4 held out."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    names = []
    for number in range(20):
        name = f"images/{number:02d}.png"
        (folder / "images").mkdir(exist_ok=True)
        colour = rng.integers(0, 255, 3)
        pixels = np.clip(colour + rng.normal(0, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
        names.append(name)
    Manifest.from_columns(
        folder,
        {
            "file_name": names, "source": "toy", "partition": "train", "pid": list(range(20)), "camid": 1,
            "split": ["train"] * 16 + ["val"] * 4, "role": "identity",
            "caption": [CAPTIONS[number % len(CAPTIONS)] for number in range(20)],
        },
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS * 5, folder, size=700, length=24)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture
def parts(tokenizer: CLIPTokenizer) -> dict[str, object]:
    """The parts of a pipeline, random but the same each time."""
    torch.manual_seed(0)
    return {
        "vae": build_autoencoder(AUTOENCODER),
        "unet": build_unet(UNET),
        "text_encoder": build_text_encoder(TEXT, tokenizer),
        "tokenizer": tokenizer,
        "scheduler": build_scheduler(NOISE),
    }


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> dict[str, Path]:
    """A random checkpoint of each layout, by its name."""
    from tests.diffusion.layouts import LAYOUTS, write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    return {layout: write_checkpoint(folder / layout, layout, tokenizer_folder) for layout in LAYOUTS}


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioned manifest of four people to train on."""
    from tests.diffusion.layouts import write_people

    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture
def two_threads(restore_threads: None) -> None:
    """Work is shared between threads, as it is on most computers."""
    torch.set_num_threads(2)
