"""The two trainings of a diffusion model from nothing, by the command line, on a corpus of a few pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffreid_lightning.diffusion.pipeline_io import save_autoencoder
from tests.fixtures.continued_runs import train_whole_and_continued
from tests.fixtures.diffusion import AUTOENCODER, NOISE, SIZE, TEXT, UNET, corpus  # noqa: F401
from tests.fixtures.wandb_records import read_run, runs_under
from tools.tiny_sd.architectures import build_autoencoder

Command = Callable[..., int]
RUN = Path("runs/test/fit-001")

TOOLS = Path(__file__).parents[2] / "tools/tiny_sd/configs"


def config(path: Path, name: str, **model: Any) -> Path:
    """The shipped config with networks of a few thousand parameters in place of its own."""
    shipped = yaml.safe_load((TOOLS / f"{name}.yaml").read_text())
    shipped["trainer"] |= {
        "default_root_dir": "runs/test", "max_epochs": 2, "check_val_every_n_epoch": 1, "precision": "32",
        "enable_progress_bar": False, "accelerator": "cpu", "log_every_n_steps": 1,
    }  # fmt: skip
    kept = []
    for callback in shipped["trainer"]["callbacks"]:
        kind = callback["class_path"].rpartition(".")[2]
        if kind == "SampleSheets":
            callback["init_args"] |= {
                "prompts": ["a red coat", "person"], "steps": 2, "images_per_prompt": 3, "image_size": list(SIZE),
                "every_n_epochs": 1,
            }  # fmt: skip
        if kind != "CompileBackbone":
            kept.append(callback)
    shipped["trainer"]["callbacks"] = kept
    shipped["data"]["init_args"] |= {"image_size": list(SIZE), "batch_size": 4}
    if name == "denoiser":
        shipped["data"]["init_args"]["captions"] = {"class_path": "ManifestCaptions", "init_args": {"drop": 0.3}}
        shipped["data"]["init_args"]["attributes"] = ["caption", "camid"]
    shipped["model"]["init_args"] |= model | {"warmup_steps": 2}
    file = path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(shipped))
    return file


@pytest.fixture
def denoiser_words(tmp_path: Path, corpus: Path, tokenizer_folder: Path) -> list[str]:  # noqa: F811
    torch.manual_seed(0)
    save_autoencoder(build_autoencoder(AUTOENCODER), tmp_path / "autoencoder", {})
    file = config(tmp_path, "denoiser", unet=UNET, text_encoder=TEXT, noise=NOISE)
    return [
        "fit", "--config", str(file), f"--data.source={corpus}", f"--data.autoencoder={tmp_path / 'autoencoder'}",
        f"--model.tokenizer={tokenizer_folder}",
        "--model.schedule=constant_with_warmup",  # a cosine goes by the number of epochs, which the tests change
    ]  # fmt: skip


@pytest.fixture
def autoencoder_words(tmp_path: Path, corpus: Path) -> list[str]:  # noqa: F811
    file = config(tmp_path, "autoencoder", architecture=AUTOENCODER, perceptual=None)
    return ["fit", "--config", str(file), f"--data.source={corpus}", "--data.num_workers=0"]


def test_an_autoencoder_trains_and_opens_in_stock_diffusers(
    command: Command,
    tmp_path: Path,
    corpus: Path,  # noqa: F811
    autoencoder_words: list[str],
) -> None:
    assert command(*autoencoder_words) == 0
    stock = AutoencoderKL.from_pretrained(tmp_path / RUN / "autoencoder")
    record = json.loads((tmp_path / RUN / "autoencoder/provenance.json").read_text())
    assert (record["steps"], record["training_data"]["images"]) == (8, 16)
    # The scale in its config is the one that brings the latents of held-out pictures to unit variance.
    pictures = [np.asarray(Image.open(corpus / f"images/{n:02d}.png"), dtype=np.float32) for n in range(16, 20)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        spread = stock.encode(images).latent_dist.mean.square().mean().rsqrt()
    assert stock.config.scaling_factor == pytest.approx(float(spread), rel=1e-3)


def test_the_latents_scale_is_known_without_held_out_images_and_after_the_last_epoch(
    command: Command, tmp_path: Path, autoencoder_words: list[str]
) -> None:
    words = [*autoencoder_words, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    assert command(*words) == 0
    scale = AutoencoderKL.from_pretrained(tmp_path / RUN / "autoencoder").config.scaling_factor
    assert scale != 0.18215  # what diffusers writes where nobody has measured
    shutil.rmtree(tmp_path / RUN / "autoencoder")
    assert command(*words, "--ckpt_path=last") == 0
    assert AutoencoderKL.from_pretrained(tmp_path / RUN / "autoencoder").config.scaling_factor == scale


def test_a_decoder_is_sharpened_under_the_latents_that_are_there(
    tracked: Command, tmp_path: Path, autoencoder_words: list[str]
) -> None:
    torch.manual_seed(0)
    first = build_autoencoder(AUTOENCODER)
    first.register_to_config(scaling_factor=0.75)
    save_autoencoder(first, tmp_path / "first", {})
    small = [
        f"--config={TOOLS / 'decoder.yaml'}",
        "--trainer.max_epochs=2",
        "--trainer.default_root_dir=runs/test",
        "--model.adversary.channels=4",
    ]
    assert tracked(*autoencoder_words, *small, f"--model.init_from={tmp_path / 'first'}") == 0
    name = "diffusion_pytorch_model.safetensors"
    before, after = (load_file(folder / name) for folder in (tmp_path / "first", tmp_path / RUN / "autoencoder"))
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder", "post_quant_conv"}
    # Nor may the scale move, by which a denoiser reads the latents.
    assert AutoencoderKL.from_pretrained(tmp_path / RUN / "autoencoder").config.scaling_factor == 0.75
    history = read_run(runs_under(tmp_path)[-1])["history"]
    assert {"train/detection", "train/adversary_weight"} <= set(history)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_what_is_trained_in_half_precision_is_finite(
    precision: str, command: Command, tmp_path: Path, autoencoder_words: list[str], denoiser_words: list[str]
) -> None:
    words = [f"--trainer.precision={precision}", "--trainer.max_epochs=1", "--trainer.logger=false"]
    if precision == "bf16-true":
        assert command(*denoiser_words, *words) == 2, "an average would be rounded"
        file = Path(denoiser_words[2])
        settings = yaml.safe_load(file.read_text())
        kept = [each for each in settings["trainer"]["callbacks"] if not each["class_path"].endswith("Averaging")]
        file.write_text(yaml.safe_dump({**settings, "trainer": {**settings["trainer"], "callbacks": kept}}))
    assert command(*(autoencoder_words if precision == "16-true" else denoiser_words), *words) == 0
    for file in (tmp_path / RUN).rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


def test_a_denoiser_trains_draws_and_ships_a_pipeline(
    tracked: Command, tmp_path: Path, denoiser_words: list[str]
) -> None:
    assert tracked(*denoiser_words) == 0
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / RUN / "pipeline")
    stock.set_progress_bar_config(disable=True)
    image = stock("a man", height=SIZE[0], width=SIZE[1], num_inference_steps=2).images[0]
    assert image.size == (SIZE[1], SIZE[0])
    sheet = Image.open(tmp_path / RUN / "samples/epoch-0002.png")
    assert sheet.width > 3 * SIZE[1]
    assert {"train/loss", "train/reading_loss", "val/loss"} <= set(read_run(runs_under(tmp_path)[-1])["history"])


def test_a_continued_denoiser_is_the_one_that_was_never_stopped(
    command: Command, tmp_path: Path, denoiser_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = train_whole_and_continued(command, denoiser_words, None, tmp_path, monkeypatch)
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        one, two = (load_file(folder / RUN / "pipeline" / f"{part}.safetensors") for folder in (whole, cut))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_latents_are_encoded_once(command: Command, tmp_path: Path, denoiser_words: list[str]) -> None:
    assert command(*denoiser_words, "--trainer.max_epochs=1") == 0
    files = sorted((tmp_path / "runs/cache/latents").glob("*.npy"))
    assert len(files) == 2
    assert sorted(np.load(file).shape for file in files) == [(4, 8, 16, 8), (16, 8, 16, 8)]
    before = [file.stat().st_mtime_ns for file in files]
    assert command(*denoiser_words, "--trainer.max_epochs=1") == 0
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("--model.unet.block_out_chanels=[8,16]", "block_out_channels"),
        ("--model.text_encoder.hiden_size=16", "hidden_size"),
        ("--model.noise.beta_schedul=linear", "beta_schedule"),
        ("--data.autoencoder=nowhere", "nowhere"),
        ("--model.tokenizer=nowhere", "nowhere"),
        ("--model.unet.norm_num_groups=5", "UNet2DConditionModel refuses"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    command: Command, denoiser_words: list[str], capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    assert command(*denoiser_words, override) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
