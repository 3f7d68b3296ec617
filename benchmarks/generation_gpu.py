"""Measure generation speed on a GPU with the architecture of Stable Diffusion 1.5; its weights are random.

    python -m benchmarks.generation_gpu

256 x 128 pixels, 25 steps of classifier-free guidance, bfloat16, channels last: images per second by the package's
generation from prompts to pixels, the share of the chip's peak that its operations amount to, and the hours that
777,000 images (Diff-Person's size in the paper) take. Random weights do the same operations as trained ones; the images
are noise. Operations are counted by torch, a multiplication and an addition each. There is nothing to measure without
a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffreid_lightning.diffusion.checkpoints import INDEX
from diffreid_lightning.diffusion.pipeline_io import assemble_pipeline, save_pipeline
from diffreid_lightning.generation.diversity import ComposedGuidance, Diversity, NoDiversity
from diffreid_lightning.generation.module import GenerationModule
from experiments.instruments.devices import require_gpu
from experiments.instruments.pictures import content_key
from experiments.instruments.report import table, write_json
from experiments.instruments.script import run_script
from tools.tiny_sd.architectures import (
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from tools.tiny_sd.tokenizer import train_tokenizer

IMAGES = 777_000

PEAKS = {"H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "A100": 312.0, "L40S": 362.0}
"""Dense bfloat16 peak in TFLOP/s by a part of the device's name, as its maker states; the first that fits counts."""

Architecture = Mapping[str, Mapping[str, Any]]

SD15: Architecture = {  # as published with the weights (Rombach et al., arXiv 2112.10752)
    "unet": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "noise": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    },
}

_PROMPT = "a photo of a person wearing a red top and navy trousers, seen from behind, in bright sunlight"


def write_random(architecture: Architecture, work: Path) -> Path:
    """Write a pipeline of random weights, or find it written.

    Args:
        architecture: settings of ``unet``, ``vae``, ``text`` and ``noise``.
        work: folder where it is kept.

    Returns:
        Its folder.
    """
    folder = work / f"random-{content_key({name: dict(part) for name, part in architecture.items()})}"
    if (folder / INDEX).exists():
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = train_tokenizer([_PROMPT] * 3, work / "tokenizer", size=1500, length=77)
        unet, vae = build_unet(architecture["unet"]), build_autoencoder(architecture["vae"])
        text_encoder = build_text_encoder(architecture["text"], tokenizer)
    pipeline = assemble_pipeline(unet, vae, text_encoder, tokenizer, build_scheduler(architecture["noise"]))
    save_pipeline(pipeline, folder, {"weights": "random"})
    return folder


def strategy(name: str) -> Diversity:
    """One prompt by classifier-free guidance, or identity and attributes together for more than half of the way."""
    return ComposedGuidance(window=(0.0, 0.6)) if name == "composed" else NoDiversity()


def count_operations(module: GenerationModule, prompts: list[tuple[str, ...]]) -> float:
    """Count the operations of drawing so many images, per image: a multiplication and an addition are two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.draw(prompts, range(len(prompts)))
    return float(counter.get_total_flops()) / len(prompts)


def time_drawing(module: GenerationModule, prompts: list[tuple[str, ...]], rounds: int) -> list[float]:
    """Seconds of drawing a batch, some times over; a first round is not counted."""
    seconds = []
    for number in range(rounds + 1):
        started = time.perf_counter()
        with torch.no_grad():
            module.draw(prompts, [number * len(prompts) + place for place in range(len(prompts))]).pictures.cpu()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def peak_of(device: str) -> float | None:
    """Return a device's dense bfloat16 peak in TFLOP/s by its name, None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def measure(module: GenerationModule, device: str, batch_size: int, rounds: int, peak: float | None) -> dict[str, Any]:
    """Measure a module on the device that it is on.

    Args:
        module: which draws.
        device: its name.
        batch_size: images at a time.
        rounds: batches that are timed.
        peak: the device's, in TFLOP/s; None where it is not known.
    """
    slots = 2 if isinstance(module.diversity, ComposedGuidance) else 1
    prompts: list[tuple[str, ...]] = [(_PROMPT,) * slots] * batch_size
    seconds = time_drawing(module, prompts, rounds)
    rate = batch_size / statistics.median(seconds)
    operations = count_operations(module, prompts[: min(4, batch_size)])
    return {
        "device": device,
        "batch_size": batch_size,
        "steps": module.sampler.steps,
        "evaluations": module.evaluations,
        "seconds": seconds,
        "images_per_second": rate,
        "teraflop_per_image": operations / 1e12,
        "teraflop_per_second": rate * operations / 1e12,
        "peak": peak,
        "share_of_peak": None if peak is None else rate * operations / 1e12 / peak,
        "hours": IMAGES / rate / 3600,
    }


def report(found: Mapping[str, Any]) -> str:
    """The table."""
    share = "unknown: give --peak" if found["share_of_peak"] is None else f"{100 * found['share_of_peak']:.1f} %"
    rows = [
        ("device", found["device"]),
        ("images at a time", found["batch_size"]),
        ("steps; evaluations of the denoiser per image", f"{found['steps']}; {found['evaluations']}"),
        ("images/s", f"{found['images_per_second']:.2f}"),
        ("TFLOP per image", f"{found['teraflop_per_image']:.3f}"),
        ("share of the bfloat16 peak", share),
        (f"hours for {IMAGES:,} images", f"{found['hours']:.2f}"),
    ]
    return table("Generation with the architecture of Stable Diffusion 1.5, random weights", ["", ""], rows)


def run(given: argparse.Namespace) -> None:
    """Measure, print the table, write the results.

    Raises:
        UserError: there is no GPU.
    """
    require_gpu("run this on a machine with one; on a CPU the numbers would say nothing")
    module = GenerationModule(
        model=str(write_random(SD15, given.work)),
        image_size=(256, 128),
        steps=given.steps,
        guidance=5.0,
        guidance_interval=tuple(given.interval),
        diversity=strategy(given.diversity),
        dtype="bfloat16",
    )
    module = module.cuda()
    if given.compile:
        module.unet.compile()
        module.vae.decoder.compile()
    device = torch.cuda.get_device_name()
    found = measure(module, device, given.batch_size, given.rounds, given.peak or peak_of(device))
    print(report(found))
    write_json(given.work / "results.json", {**found, "compiled": given.compile})


def main(args: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure generation speed on a GPU.")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/generation_gpu"), help="weights, results")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time")
    parser.add_argument("--steps", type=int, default=25, help="of the sampler")
    parser.add_argument(
        "--interval", type=float, nargs=2, default=(0.0, 1.0), help="part of the steps in which the prompt guides"
    )
    parser.add_argument("--rounds", type=int, default=5, help="batches that are timed, after one that is not")
    parser.add_argument("--diversity", choices=("none", "composed"), default="none", help="strategy of diversity")
    parser.add_argument("--compile", action="store_true", help="compile the denoiser and the decoder")
    parser.add_argument("--peak", type=float, default=None, help="of the device in TFLOP/s, where it is not known")
    return run_script(run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
