"""Measure the time of a training step of personalization: ``fit`` beside a loop as users of diffusers write it.

    python -m diffreid_lightning pipeline --until caption
    python -m benchmarks.personalization [--root runs/tour] [--rounds 3]
    python -m benchmarks.personalization --model sd15 --height 256 --width 128 --batch 32 --precision bf16-mixed

prints a Markdown table. The rows train a LoRA of the same rank on the same captioned images with AdamW. The loop does
what diffusers' example of text-to-image LoRA training does: loader processes decode and tokenize, every step encodes
its images by the autoencoder and its captions by the text encoder, frozen weights are in the lower precision, the
denoiser runs under autocast, gradients are clipped. Its synthetic row has one batch of images over and over. ``fit`` is
``stages/personalize`` without prior images, whose cost would be the same on both sides: latents are encoded once,
before the clock starts, and gradients go through the text encoder, because two vectors of every person are trained as
well; its callbacks and loggers are the default ones (W&B offline, where it is installed). ``sd15`` is the architecture
of Stable Diffusion 1.5 with random weights. Every measurement is a process of its own, the rows alternate over the
rounds, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.generation_gpu import SD15, write_random
from benchmarks.step_clock import Clock, clock_words, measure_in_turn, repeat_epochs, table
from diffreid_lightning.cli import main as command_line
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.losses import noise_latents
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.instruments.devices import device_name
from experiments.instruments.script import run_script

RATE = 1e-4
_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


class CaptionedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in -1..1 and their tokens, each decoded and tokenized when it is asked for.

    Args:
        manifest: captioned images.
        tokenizer: of the model.
        size: height and width in pixels.
    """

    def __init__(self, manifest: Manifest, tokenizer: Any, size: tuple[int, int]) -> None:
        self.rows = concatenate([manifest])
        self.captions = manifest.numpy("caption")
        self.tokenizer = tokenizer
        self.transform = v2.Compose(
            [
                v2.Resize(size),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        length = self.tokenizer.model_max_length
        words = self.tokenizer(str(self.captions[row]), padding="max_length", truncation=True, max_length=length)
        return self.transform(self.rows.image(row)), torch.tensor(words["input_ids"])


def stock_loop(arguments: argparse.Namespace, *, synthetic: bool = False) -> None:
    """Measure a loop as diffusers' example has it.

    Args:
        arguments: of the command.
        synthetic: train on the first batch over and over, so that nothing is decoded.
    """
    device = fastest_device()
    frozen = torch.bfloat16 if arguments.precision == "bf16-mixed" else torch.float32
    pipeline = load_pipeline(locate_pipeline(arguments.model))
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for network in (unet, vae, text_encoder):
        network.requires_grad_(False).to(device, frozen)
    unet.add_adapter(
        LoraConfig(r=arguments.rank, lora_alpha=arguments.rank, init_lora_weights="gaussian", target_modules=_TARGETS)
    )
    if frozen != torch.float32:
        cast_training_params(unet, torch.float32)
    unet.train()
    learnt = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    images = CaptionedImages(_captioned(arguments.captions), pipeline.tokenizer, (arguments.height, arguments.width))
    loader: Iterable[tuple[Tensor, Tensor]] = DataLoader(
        images,
        arguments.batch,
        shuffle=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )
    clock = Clock(arguments.warm_up, arguments.steps)
    if synthetic:
        loader = [next(iter(loader))]
    for pictures, tokens in repeat_epochs(loader):
        with torch.no_grad():
            latents = vae.encode(pictures.to(device, frozen)).latent_dist.sample() * vae.config.scaling_factor
            states = text_encoder(tokens.to(device), return_dict=False)[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), device=device).long()
        noisy, target = noise_latents(scheduler, latents, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=frozen != torch.float32):
            predicted = unet(noisy, timesteps, states, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), target.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if clock.step_done():
            return


def _captioned(folder: str) -> Manifest:
    """Read the training images of a captioned manifest."""
    manifest = open_dataset(folder).manifest()
    return manifest.filter(manifest.numpy("split") == "train")


def fit(arguments: argparse.Namespace, *more: str) -> None:
    """Measure the command line."""
    words = [
        f"--data.source={arguments.captions}",
        f"--data.image_size=[{arguments.height},{arguments.width}]",
        f"--data.batch_size={arguments.batch}",
        "--data.prior=null",
        f"--data.cache_dir={arguments.work / 'latents'}",
        f"--model.model={arguments.model}",
        f"--model.fine_tuning.rank={arguments.rank}",
        f"--model.optimizer.lr={RATE}",
        f"--model.frozen_dtype={'bfloat16' if arguments.precision == 'bf16-mixed' else 'float32'}",
        f"--trainer.precision={arguments.precision}",
        *clock_words(arguments.warm_up, arguments.steps),
    ]
    command_line(["fit", "--config", "stages/personalize", *words, *more])


ROWS: dict[str, Callable[[argparse.Namespace], None]] = {
    "stock": stock_loop,
    "synthetic": lambda arguments: stock_loop(arguments, synthetic=True),
    "fit": fit,
    "compiled": lambda arguments: fit(
        arguments, "--trainer.callbacks+=CompileBackbone", "--trainer.callbacks.networks=[unet]"
    ),
}
NAMES = {
    "stock": "a loop as in diffusers' example",
    "synthetic": "the same on one batch",
    "fit": "**fit**",
    "compiled": "**fit**, the denoiser compiled",
}


def run(given: argparse.Namespace) -> None:
    """Measure all rows and print the table, or one row.

    Raises:
        UserError: there are no captioned images.
    """
    given.captions = str((given.root / "caption").resolve())
    if not (Path(given.captions) / "metadata.parquet").is_file():
        raise UserError(
            f"There are no captioned images in {given.captions}.",
            looked_for="the output of a chain's stage caption",
            found="no metadata.parquet",
            remedy=f"run: python -m diffreid_lightning pipeline --root {given.root} --until caption",
        )
    given.root, given.work = given.root.resolve(), given.work.resolve()
    if given.model == "sd15":
        given.model = str(write_random(SD15, given.work))
    elif Path(given.model).exists():
        given.model = str(Path(given.model).resolve())  # rows run in folders of their own
    if given.row:
        ROWS[given.row](given)
        return
    words = []
    for name in (
        "root",
        "work",
        "model",
        "height",
        "width",
        "batch",
        "workers",
        "rank",
        "precision",
        "warm_up",
        "steps",
    ):
        words.append(f"--{name.replace('_', '-')}={getattr(given, name)}")
    print(
        f"{device_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {given.height}×{given.width}, "
        f"batches of {given.batch}, LoRA of rank {given.rank}, {given.precision}"
    )
    names = {row: name for row, name in NAMES.items() if given.compile or row != "compiled"}
    seconds = measure_in_turn("benchmarks.personalization", names, words, given.rounds)
    print("\n".join(table(seconds, NAMES, "stock", given.batch)))


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time of a step of personalization beside diffusers' example.")
    parser.add_argument("--root", type=Path, default=Path("runs/tour"), help="chain whose captions are read")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/personalization"), help="random weights")
    parser.add_argument("--model", default="tiny-sd", help="a folder or hub id, tiny-sd, or sd15 with random weights")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="processes of the loop's loader")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--compile", action="store_true", help="add a row with the denoiser compiled")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", choices=ROWS, help="measure this row alone, in this process, and print JSON")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
