"""The text-to-image model that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffreid_lightning.diffusion.checkpoints import locate_pipeline

SIZE = (128, 64)


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate_pipeline("tiny-sd")


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(stock: Any, prompt: str, count: int = 4) -> np.ndarray[Any, Any]:
    """Draw images as a user of diffusers does, without further arguments: (B, H, W, 3) in 0..1."""
    generator = torch.Generator().manual_seed(0)
    images: np.ndarray[Any, Any] = stock(
        prompt, num_images_per_prompt=count, num_inference_steps=10, guidance_scale=4.0,
        height=SIZE[0], width=SIZE[1], generator=generator, output_type="np",
    ).images  # fmt: skip
    return images


def test_it_is_small(folder: Path, stock: Any) -> None:
    def millions(network: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in network.parameters()) / 1e6

    assert millions(stock.unet) <= 5
    assert millions(stock.vae) <= 2
    assert millions(stock.text_encoder) <= 1.5
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= 22e6


def test_garments_have_the_colors_that_were_asked_for(stock: Any) -> None:
    chest, legs = np.s_[:, 32:56, 22:42], np.s_[:, 80:108, 22:42]
    drawn = {
        (upper, lower): draw(stock, f"a man wearing a {upper} jumper and {lower} trousers, seen from the front")
        for upper, lower in [("red", "blue"), ("blue", "red"), ("white", "black"), ("black", "white")]
    }
    for (upper, lower), images in drawn.items():
        for color, part in ((upper, images[chest]), (lower, images[legs])):
            red, _, blue = part.mean(axis=(0, 1, 2))
            if color in ("red", "blue"):
                assert (red > blue + 0.1) if color == "red" else (blue > red + 0.1), (upper, lower, color)
        if "white" in (upper, lower):
            bright = images[chest].mean() - images[legs].mean()
            assert bright > 0.2 if upper == "white" else bright < -0.2


def test_the_same_seed_draws_the_same_and_other_words_another(stock: Any) -> None:
    one, again = (draw(stock, "a woman in a green coat", 1) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - draw(stock, "a woman in a yellow coat", 1)).max() > 0.2
