"""A corpus of a few flat pictures and a diffusion pipeline of a few channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.diffusion.pipeline_io import assemble_pipeline, save_pipeline
from diffreid_lightning.generation.vocabulary import Vocabulary
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments import script
from experiments.instruments.judge import CLASSES, Judge
from experiments.instruments.known_people import choose_people
from experiments.personalization import bench
from tools.miniperson.palette import GARMENT
from tools.tiny_sd.architectures import (
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from tools.tiny_sd.tokenizer import train_tokenizer

_DRESS = ("dress", "teal", "dress", "teal")
#: Outfits by split; the pairs of colors of ``val`` are not among those of ``train``.
OUTFITS = {
    "train": [("tshirt", "red", "jeans", "black"), ("shirt", "orange", "skirt", "navy"), _DRESS],
    "val": [("vest", "red", "long_skirt", "navy"), ("jumper", "orange", "shorts", "black")],
}
VIEWS = ("front", "back", "left", "right")
SETTINGS = ("on grass in front of a building", "on asphalt in front of a brick wall")


@pytest.fixture(autouse=True)
def process_settings(monkeypatch: pytest.MonkeyPatch, restore_threads: None) -> None:
    """Leave threads and logging to other tests as they were."""
    monkeypatch.setattr(script, "quiet_loaders", lambda: None)


def write_world(folder: Path, people_per_outfit: int = 3) -> Manifest:
    """Two flat colors per picture, one picture per person and view."""
    rows = []
    people = [(split, outfit) for split, outfits in OUTFITS.items() for outfit in outfits * people_per_outfit]
    (folder / "images").mkdir(parents=True)
    for pid, (split, (upper, upper_colour, lower, lower_colour)) in enumerate(people, start=1):
        for view in VIEWS:
            pixels = np.empty((128, 64, 3), np.uint8)
            pixels[:64], pixels[64:] = GARMENT[upper_colour], GARMENT[lower_colour]
            name = f"images/{pid:04d}_{view}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append(
                {
                    "file_name": name,
                    "source": "flat",
                    "partition": "train",
                    "pid": pid,
                    "camid": 1,
                    "split": split,
                    "role": "identity",
                    "caption": f"a person in {upper_colour} and {lower_colour}",
                    "upper": upper,
                    "upper_colour": upper_colour,
                    "upper_pattern": "plain",
                    "lower_pattern": "plain",
                    "lower": lower,
                    "lower_colour": lower_colour,
                    "view": view,
                    "sex": ("female", "male")[pid % 2],
                    "age": ("young", "old")[pid // 2 % 2],
                    "hair_cut": ("short", "long")[pid % 2],
                    "hat": "none",
                    "bag": ("none", "backpack")[pid // 3 % 2],
                    "setting": SETTINGS[pid % 2],
                    "light": ("at night", "in bright sunlight")[pid // 2 % 2],
                    "occluded": view == "left" and pid % 5 == 0,
                }
            )
    manifest = Manifest.from_columns(folder, {name: [row[name] for row in rows] for name in rows[0]})
    manifest.write(folder)
    return manifest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_world(tmp_path_factory.mktemp("benchmarks") / "world")


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with random weights whose images are an eighth of their size in the latents."""
    root = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    vae = build_autoencoder(
        {
            "block_out_channels": [4, 4, 4, 4], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4, "norm_num_groups": 2, "sample_size": 128,
            "mid_block_add_attention": False,
        }
    )  # fmt: skip
    unet = build_unet(
        {
            "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 8], "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "norm_num_groups": 4,
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 16, "attention_head_dim": 4,
        }
    )  # fmt: skip
    wishes = [phrase for phrases in Vocabulary.read("rendered").phrases.values() for phrase in phrases]
    known = ["a woman wearing a red coat", "a man wearing black jeans", "a person wearing a grey top and navy shorts"]
    tokenizer = train_tokenizer([*known, *wishes] * 3, root / "tok", size=1200)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    scheduler = build_scheduler({"prediction_type": "v_prediction", "steps_offset": 1, "clip_sample": False})
    pipeline = assemble_pipeline(unet, vae, build_text_encoder(text, tokenizer), tokenizer, scheduler)
    save_pipeline(pipeline, root / "pipeline", {})
    return root / "pipeline"


class Statistics(nn.Module):
    """Six numbers of an image."""

    def forward(self, images):
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


@pytest.fixture(scope="session")
def everybody():
    return MiniPerson().manifest()


@pytest.fixture(scope="session")
def judge_folder(everybody, tmp_path_factory):
    """A judge of the smallest network that timm has, untrained, who knows the training people."""
    folder = tmp_path_factory.mktemp("judge")
    people = choose_people(everybody, "train", None).identities()[1]
    torch.manual_seed(0)
    judge = Judge("test_resnet", len(people))
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, folder / "judge.safetensors")
    note = {"architecture": "test_resnet", "weights": "judge.safetensors", "people": people}
    (folder / CLASSES).write_text(json.dumps(note))
    return folder


@pytest.fixture
def words(world, pipeline_folder, judge_folder, tmp_path, monkeypatch):
    """Options of the smallest table."""
    monkeypatch.setattr(bench, "kid_features", Statistics)
    options = {
        "base": pipeline_folder, "world": world.root, "judge": judge_folder, "work": tmp_path / "work",
        "identities": 2, "images": 4, "evaluations": 4, "nobody": 8, "attribute-epochs": 1, "scene-epochs": 1,
        "steps": 2, "images-per-step": 3, "rank": 2, "prior-steps": 1, "threads": 1,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
