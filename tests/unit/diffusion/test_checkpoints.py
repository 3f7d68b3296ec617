"""Where a checkpoint is looked for, and what is said when it cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffreid_lightning.diffusion.checkpoint_parts import find_weights
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.errors import UserError
from tests.fixtures.checkpoint_layouts import LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_in_the_precision_that_is_asked_for(checkpoints: dict[str, Path], layout: str) -> None:
    pipeline = load_pipeline(checkpoints[layout], torch.bfloat16)
    assert type(pipeline).__name__ == ("StableDiffusionXLPipeline" if layout == "sdxl" else "StableDiffusionPipeline")
    networks = [value for value in pipeline.components.values() if isinstance(value, torch.nn.Module)]
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.bfloat16}
    assert not any(network.training for network in networks)


def test_what_is_not_there_is_said_with_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for asked, told in ((tmp_path, "model_index.json"), ("no/where/at-all", "no such folder"), ("tiny-ds", "tiny-sd")):
        with pytest.raises(UserError, match=told):
            locate_pipeline(asked)
    with pytest.raises(UserError, match="owner/no-such-model") as refused:
        load_pipeline("owner/no-such-model")
    assert "local copy" in str(refused.value)


def test_another_kind_of_pipeline_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["sd1"], tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline"):
        load_pipeline(folder)


def test_a_checkpoint_in_half_precision_alone_loads(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    load_pipeline(checkpoints["sd1"], torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    half, plain = (find_weights(folder / "unet") for folder in (tmp_path / "half", checkpoints["sd1"]))
    assert half is not None and half.variant == "fp16"
    assert plain is not None and plain.variant is None
    assert load_pipeline(tmp_path / "half").unet.dtype == torch.float32


def test_the_hash_follows_what_is_loaded(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["sd1"], tmp_path / "model")
    before = weights_hash(folder)
    assert before == weights_hash(checkpoints["sd1"])
    (folder / "notes.txt").write_text("hello")
    assert weights_hash(folder) == before
    file = next((folder / "unet").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert weights_hash(folder) != before


@pytest.mark.parametrize(
    ("layout", "part", "settings"),
    [
        ("sd1", "vae", {}),
        ("sd1", "text_encoder", {}),
        ("sdxl", "text_encoder_2", {}),
        ("sd1", "unet", {"variant": "fp16"}),
        ("sd1", "unet", {"max_shard_size": "20KB"}),
        ("sdxl", "unet", {"variant": "fp16", "max_shard_size": "20KB"}),
    ],
)
def test_each_weight_file_that_is_loaded_counts_beside_a_denoiser_in_half_precision(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, part: str, settings: dict[str, Any]
) -> None:
    folder = shutil.copytree(checkpoints[layout], tmp_path / "model")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", **({"variant": "fp16"} if part != "unet" else settings))
    load_pipeline(folder)
    before = weights_hash(folder)
    (folder / "vae" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not loaded")
    (folder / part / "diffusion_pytorch_model.bin").write_bytes(b"not loaded")
    assert weights_hash(folder) == before
    weights = find_weights(folder / part)
    assert weights is not None
    assert len(weights.files) == 1 or "max_shard_size" in settings
    for file in weights.files[:2]:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert weights_hash(folder) != before, file.name
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("file", "change", "counts"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, True),
        ("unet/config.json", {"norm_eps": 1e-3}, True),
        ("model_index.json", {"force_zeros_for_empty_prompt": False}, True),
        ("tokenizer/tokenizer_config.json", {"pad_token": "!"}, True),
        ("scheduler/scheduler_config.json", {"_diffusers_version": "9.9.9"}, False),
        ("text_encoder/config.json", {"transformers_version": "9.9.9"}, False),
    ],
)
def test_settings_count_and_who_wrote_them_does_not(
    checkpoints: dict[str, Path], tmp_path: Path, file: str, change: dict[str, object], counts: bool
) -> None:
    folder = shutil.copytree(checkpoints["sd1"], tmp_path / "model")
    settings = json.loads((folder / file).read_text())
    assert settings | change != settings
    (folder / file).write_text(json.dumps(settings | change))
    assert (weights_hash(folder) != weights_hash(checkpoints["sd1"])) == counts
