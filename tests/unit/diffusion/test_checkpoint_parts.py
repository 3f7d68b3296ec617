"""Incomplete and damaged checkpoints: what is missing is named before anything is loaded, and remedies work."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffreid_lightning.diffusion.pipeline_io import load_autoencoder, load_pipeline
from diffreid_lightning.errors import UserError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n"


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["sdxl"], tmp_path / "model"))


def change(file: str, **settings: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | settings))

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


def lose_tensor(part: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = next((folder / part).glob("*.safetensors"))
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[1])
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def spoil(part: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = next((folder / part).glob("*.safetensors"))
        tensors = load_file(file)
        tensors[sorted(tensors)[1]].fill_(float("nan"))
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def cut_merges(folder: Path) -> None:
    file = folder / "tokenizer_2" / "tokenizer.json"
    table = json.loads(file.read_text())
    table["model"]["merges"] = table["model"]["merges"][:5]
    file.write_text(json.dumps(table))


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/config.json"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove("tokenizer"), "tokenizer/vocab.json"),
        (remove("tokenizer_2/tokenizer.json"), "tokenizer_2/vocab.json"),
        (remove("tokenizer/tokenizer_config.json"), "tokenizer/tokenizer_config.json"),
        (change("tokenizer/tokenizer_config.json", model_max_length=None), "model_max_length"),
        (change("tokenizer/tokenizer_config.json", model_max_length="77"), "model_max_length"),
        (cut_merges, "a merge for each word"),
        (remove("scheduler"), "scheduler/scheduler_config.json"),
        (remove("vae"), "vae/config.json"),
        (remove("text_encoder_2/config.json"), "text_encoder_2/config.json"),
        (remove(UNET), "weights in safetensors in"),
        (write(UNET, LFS), "git lfs pull"),
        (write("model_index.json", "[]"), "a JSON object in"),
        (change("model_index.json", unet=None), "unsupported unet"),
        (change("model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]), "unsupported text_encoder_2"),
        (change("model_index.json", vae=["diffusers", "AutoencoderTiny"]), "AutoencoderTiny"),
        (change("unet/config.json", block_out_channels=[0, 0]), "cannot be loaded"),
        (change("unet/config.json", layers_per_block=None), "cannot be loaded"),
        (change("text_encoder/config.json", num_attention_heads=0), "cannot be loaded"),
        (change(VAE, scaling_factor="0.18"), "scaling_factor '0.18'"),
        (change(VAE, scaling_factor=0), "scaling_factor 0"),
        (change("scheduler/scheduler_config.json", beta_start="x"), "cannot be loaded"),
        (lose_tensor("unet"), "are incomplete"),
        (lose_tensor("vae"), "are incomplete"),
        (lose_tensor("text_encoder"), "are incomplete"),
        (spoil("vae"), "infinity or NaN"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as refused:
        load_pipeline(folder)
    assert told in str(refused.value)
    assert refused.value.remedy


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_pickles_are_refused_with_a_command_that_converts_them(
    checkpoints: dict[str, Path], tmp_path: Path, variant: str
) -> None:
    folder = shutil.copytree(checkpoints["sd1"], tmp_path / "model")
    wanted = load_pipeline(folder).unet.state_dict()
    for file in list(folder.rglob("*.safetensors")):
        stem = "pytorch_model" if file.name.startswith("model") else "diffusion_pytorch_model"
        torch.save(load_file(file), file.with_name(f"{stem}{variant}.bin"))
        file.unlink()
    with pytest.raises(UserError, match="pickles") as refused:
        load_pipeline(folder)
    program, option, code = shlex.split(str(refused.value.remedy).partition("new folder: ")[2])
    assert (program, option) == ("python", "-c")
    exec(code, {})
    converted = load_pipeline(f"{folder}-safetensors").unet.state_dict()
    assert all(torch.equal(tensor, converted[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize(("layout", "settings"), [("sd1", {}), ("sdxl", {"max_shard_size": "20KB"})])
def test_checkpoints_in_half_precision_alone_load_in_every_stage(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, settings: dict[str, Any]
) -> None:
    half = load_pipeline(checkpoints[layout], torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16", **settings)
    again = load_pipeline(tmp_path / "half")
    for part in ("unet", "vae", "text_encoder"):
        tensors = getattr(again, part).state_dict()
        assert all(torch.equal(t.float(), tensors[n]) for n, t in getattr(half, part).state_dict().items())
    assert load_autoencoder(tmp_path / "half").dtype == torch.float32  # what images are encoded by
