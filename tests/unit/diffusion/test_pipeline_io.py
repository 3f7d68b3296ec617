"""What is saved is what stock diffusers opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file

from diffreid_lightning.diffusion.pipeline_io import (
    assemble_pipeline,
    load_autoencoder,
    load_pipeline,
    save_autoencoder,
    save_pipeline,
)
from diffreid_lightning.errors import UserError
from tests.fixtures.diffusion import SIZE


def sample(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        "a woman in a red coat", height=SIZE[0], width=SIZE[1], num_inference_steps=3, output_type="pt",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    return torch.as_tensor(images)


def test_stock_diffusers_loads_and_samples_without_further_arguments(parts: dict[str, Any], tmp_path: Path) -> None:
    ours = assemble_pipeline(**parts)
    save_pipeline(ours, tmp_path / "model", {"steps": 7})
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert {stock.unet.dtype, stock.vae.dtype, stock.text_encoder.dtype} == {torch.float32}
    image = sample(stock)
    assert image.shape == (1, 3, *SIZE)
    # Half precision on the disk is all that separates the two.
    torch.testing.assert_close(image, sample(ours), atol=0.02, rtol=0)
    assert json.loads((tmp_path / "model" / "provenance.json").read_text()) == {"steps": 7}


def test_weights_are_stored_small_and_under_published_names(parts: dict[str, Any], tmp_path: Path) -> None:
    save_pipeline(assemble_pipeline(**parts), tmp_path / "model", {})
    for part in ("unet", "vae"):
        tensors = load_file(tmp_path / "model" / part / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    text = load_file(tmp_path / "model" / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in text.values()} == {torch.float32}
    assert all(name.startswith("text_model.") for name in text)
    again = load_pipeline(tmp_path / "model").text_encoder.state_dict()
    for name, tensor in parts["text_encoder"].state_dict().items():
        torch.testing.assert_close(again[name], tensor, atol=0, rtol=0)


def test_an_autoencoder_comes_back_alone_and_from_a_pipeline(parts: dict[str, Any], tmp_path: Path) -> None:
    vae: AutoencoderKL = parts["vae"]
    vae.register_to_config(scaling_factor=0.7)
    save_autoencoder(vae, tmp_path / "alone", {})
    save_pipeline(assemble_pipeline(**parts), tmp_path / "model", {})
    for folder in ("alone", "model"):
        again = load_autoencoder(tmp_path / folder)
        assert again.config.scaling_factor == 0.7
        for name, tensor in vae.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, atol=2e-3, rtol=0)


def test_a_folder_is_replaced_whole(parts: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "alone"
    save_autoencoder(parts["vae"], target, {"first": 1})
    (target / "left_over").write_text("x")
    save_autoencoder(parts["vae"], target, {"second": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone"]
    assert not (target / "left_over").exists()


@pytest.mark.parametrize("load", [load_autoencoder, load_pipeline])
def test_what_is_not_there_or_damaged_is_named(load: Any, parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        load(tmp_path / "nowhere")
    save_pipeline(assemble_pipeline(**parts), tmp_path / "model", {})
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path / "model")


def test_a_pipeline_whose_text_encoder_was_halved_is_saved_in_one_that_stock_diffusers_runs(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    ours = assemble_pipeline(**parts)
    ours.text_encoder.to(torch.bfloat16)
    save_pipeline(ours, tmp_path / "model", {})
    assert ours.text_encoder.dtype == torch.bfloat16, "the pipeline is not changed"
    tensors = load_file(tmp_path / "model" / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert {stock.unet.dtype, stock.vae.dtype, stock.text_encoder.dtype} == {torch.float32}
    assert sample(stock).isfinite().all()
