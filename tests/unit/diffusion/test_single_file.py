"""Checkpoints in one file: the same weights as the folder that they were written from."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from diffreid_lightning.diffusion.checkpoint_parts import check_parts
from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.pipeline_io import load_autoencoder, load_pipeline
from diffreid_lightning.diffusion.published_configs import write_configs
from diffreid_lightning.diffusion.single_file import configs_of
from diffreid_lightning.errors import UserError
from tests.fixtures.original_layout import write_single_file


def write_beside(folder: Path, file: Path) -> Path:
    """Write a checkpoint as one file, with its configurations beside it."""
    shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return write_single_file(load_pipeline(folder), file)


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_a_single_file_is_the_folder_that_it_was_written_from(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    file = write_beside(checkpoints[layout], tmp_path / "one.safetensors")
    ours, wanted = load_pipeline(file), load_pipeline(checkpoints[layout])
    assert type(ours) is type(wanted)
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if layout == "sdxl" else [])):
        tensors = getattr(ours, part).state_dict()
        assert all(torch.equal(t, tensors[n]) for n, t in getattr(wanted, part).state_dict().items())
    assert type(ours.scheduler) is type(wanted.scheduler)
    vae = load_autoencoder(file).state_dict()
    assert all(torch.equal(tensor, vae[name]) for name, tensor in wanted.vae.state_dict().items())


def test_file_and_configurations_count(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = write_beside(checkpoints["sd1"], tmp_path / "one.safetensors")
    before = weights_hash(locate_pipeline(file))
    config = tmp_path / "one" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    assert (other := weights_hash(locate_pipeline(file))) != before
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert weights_hash(locate_pipeline(file)) not in (before, other)


def test_a_file_that_lacks_tensors_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = write_beside(checkpoints["sd1"], tmp_path / "one.safetensors")
    tensors = load_file(file)
    tensors.pop("model.diffusion_model.out.0.weight")
    save_file(tensors, file)
    with pytest.raises(UserError, match="are incomplete"):
        load_pipeline(file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        load_pipeline(file)


def test_a_pickle_is_refused_with_a_command_that_converts_it(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_beside(checkpoints["sd1"], tmp_path / "one.safetensors")
    torch.save({"state_dict": load_file(file), "global_step": 7}, pickled := tmp_path / "one.ckpt")
    file.unlink()
    with pytest.raises(UserError, match="pickle") as refused:
        locate_pipeline(pickled)
    program, option, code, *words = shlex.split(str(refused.value.remedy).partition("new file: ")[2])
    assert (program, option) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *words])
    exec(code, {})
    load_pipeline(file)


INPUT = "model.diffusion_model.input_blocks.0.0.weight"
ATTENTION = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
XL = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
TEXT = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"


def header(file: Path, shapes: dict[str, tuple[int, ...]], **metadata: str) -> Path:
    """Write a file with tensors of these shapes."""
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file, metadata or None)
    return file


@pytest.mark.parametrize(
    ("shapes", "noted", "cls", "width", "kind"),
    [
        ({INPUT: (1, 4), ATTENTION: (1, 768), TEXT: (1,)}, {}, "StableDiffusionPipeline", 768, "epsilon"),
        ({INPUT: (1, 4), ATTENTION: (1, 768), TEXT: (1,)}, {"modelspec.prediction_type": "v"},
         "StableDiffusionPipeline", 768, "v_prediction"),
        ({INPUT: (1, 4), ATTENTION: (1, 1024), TEXT: (1,)}, {"modelspec.prediction_type": "v"},
         "StableDiffusionPipeline", 1024, "v_prediction"),
        ({INPUT: (1, 4), XL: (1,)}, {}, "StableDiffusionXLPipeline", 2048, "epsilon"),
        ({INPUT: (1, 4), XL: (1,), "v_pred": (1,), "ztsnr": (1,)}, {}, "StableDiffusionXLPipeline", 2048,
         "v_prediction"),
    ],
)  # fmt: skip
def test_published_families_need_no_folder_and_no_network(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], noted: dict[str, str], cls: str, width: int, kind: str
) -> None:
    with configs_of(header(tmp_path / "one.safetensors", shapes, **noted)) as configs:
        assert check_parts(configs, "one", weights=False) == cls
        assert UNet2DConditionModel.load_config(configs / "unet")["cross_attention_dim"] == width
        scheduler = (configs / "scheduler" / "scheduler_config.json").read_text()
        assert f'"prediction_type": "{kind}"' in scheduler
        assert ('"rescale_betas_zero_snr": true' in scheduler) == ("ztsnr" in shapes)


def test_the_tokenizer_of_published_families_gives_openais_numbers(tmp_path: Path) -> None:
    write_configs("sd2", "epsilon", False, tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    assert (tokenizer.model_max_length, tokenizer.pad_token) == (77, "!")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({INPUT: (1, 4), ATTENTION: (1, 1024), TEXT: (1,)}, "both kinds of SD 2.x have the same tensors"),
        ({INPUT: (1, 9), ATTENTION: (1, 768), TEXT: (1,)}, "unknown model family"),
        ({INPUT: (1, 4), XL: (1,), "edm_mean": (4,)}, "unknown model family"),
        ({INPUT: (1, 4), ATTENTION: (1, 768)}, "unknown model family"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "unknown model family"),
    ],
)
def test_a_file_of_no_known_family_asks_for_configurations(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str
) -> None:
    with pytest.raises(UserError) as refused, configs_of(header(tmp_path / "one.safetensors", shapes)):
        pass
    assert told in str(refused.value)
    assert f"--local-dir {tmp_path / 'one'}" in str(refused.value)
