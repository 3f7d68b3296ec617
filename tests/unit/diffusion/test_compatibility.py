"""Denoisers that would get fewer inputs than they were trained with, and parts of different checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffreid_lightning.diffusion.compatibility import check_pipeline
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.errors import UserError
from tests.fixtures.checkpoint_layouts import LAYOUTS


@pytest.fixture(scope="module")
def pipelines(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return {layout: load_pipeline(checkpoints[layout]) for layout in LAYOUTS}


def changed(pipeline: Any, part: str, settings: dict[str, Any]) -> Any:
    """Return the pipeline with other settings of one part, which nothing is computed with."""
    config = copy.copy(getattr(pipeline, part).config)
    config.__dict__.update(settings)
    parts = {name: getattr(pipeline, name, None) for name in ("unet", "vae", "tokenizer", "tokenizer_2")}
    encoders = {name: getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")}
    return SimpleNamespace(**parts | encoders | {part: SimpleNamespace(config=config)})


@pytest.mark.parametrize(
    ("layout", "settings", "told"),
    [
        ("sd1", {"in_channels": 9}, "inpainting"),
        ("sd1", {"in_channels": 8}, "text only"),
        ("sd1", {"out_channels": 8}, "learned variance"),
        ("sd1", {"time_cond_proj_dim": 256}, "distilled from"),
        ("sdxl", {"time_cond_proj_dim": 256}, "distilled from"),
        ("sd1", {"num_class_embeds": 1000}, "num_class_embeds"),
        ("sd1", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("sd1", {"addition_embed_type": "text"}, "addition_embed_type"),
        ("sdxl", {"addition_embed_type": None}, "addition_embed_type"),
        ("sd1", {"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type"),
        ("sdxl", {"projection_class_embeddings_input_dim": 40}, "refiner"),
        ("sd2", {"cross_attention_dim": 1024}, "do not fit each other"),
    ],
)
def test_a_denoiser_that_cannot_be_served_is_refused(
    pipelines: dict[str, Any], layout: str, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_pipeline(changed(pipelines[layout], "unet", settings), "a model")
    assert told in str(refused.value)
    assert refused.value.remedy


def test_a_vocabulary_larger_than_the_text_encoders_is_refused(pipelines: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        check_pipeline(changed(pipelines["sd1"], "text_encoder", {"vocab_size": 100}), "a model")
