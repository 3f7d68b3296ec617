"""DreamBooth-LoRA as users of diffusers train it: one person at a time, a model of their own for each.

The steps are those of diffusers' example for DreamBooth with LoRA, without prior images: every step takes one picture,
AdamW at a constant rate, gradients clipped at 1. Pictures and prompt are encoded once, before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from torch import Tensor
from torch.nn import functional as F

from diffreid_lightning.devices import fastest_device
from diffreid_lightning.diffusion.losses import noise_latents
from diffreid_lightning.diffusion.pipeline_io import Pipeline, load_pipeline
from diffreid_lightning.personalization.identity_tokens import rare_tokens
from experiments.instruments.devices import wait_for
from experiments.instruments.pictures import to_floats

_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Alone:
    """Settings for training on one person.

    Args:
        checkpoints: numbers of steps after which the model is tried.
        rate: learning rate.
        rank: of the LoRA.
        batch_size: pictures in a step.
    """

    checkpoints: tuple[int, ...] = (50, 100, 200, 400, 800)
    rate: float = 1e-4
    rank: int = 4
    batch_size: int = 1


def instance_prompt(tokenizer: Any) -> str:
    """Return DreamBooth's prompt: the rarest word of the vocabulary, and the class (arXiv 2208.12242, section 3.1)."""
    rarest = tokenizer.convert_ids_to_tokens(rare_tokens(tokenizer)[0]).removesuffix("</w>")
    return f"a photo of {rarest} person"


def train_alone(base: Path, pictures: Tensor, alone: Alone, seed: int) -> Iterator[tuple[int, float, Pipeline, str]]:
    """Train on one person's pictures.

    Args:
        base: folder of the base model.
        pictures: (N, 3, H, W) uint8.
        alone: how.
        seed: of noise and order.

    Yields:
        At each checkpoint the steps taken, the seconds they took (without those between the checkpoints), the pipeline
        as it then is, and the prompt.
    """
    device = fastest_device()
    pipeline = load_pipeline(base).to(device)
    source = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    prompt = instance_prompt(pipeline.tokenizer)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False)
    config = LoraConfig(r=alone.rank, lora_alpha=alone.rank, init_lora_weights="gaussian", target_modules=_TARGETS)
    pipeline.unet.add_adapter(config)
    learnt = [parameter for parameter in pipeline.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=alone.rate, weight_decay=1e-2)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        posterior = pipeline.vae.encode(to_floats(pictures).to(device) * 2 - 1).latent_dist
        states = pipeline.encode_prompt(prompt, device, 1, False)[0]
    done, seconds = 0, 0.0
    for steps in alone.checkpoints:
        wait_for(device)
        started = time.perf_counter()
        pipeline.unet.train()
        for _ in range(steps - done):
            rows = torch.randint(len(pictures), (alone.batch_size,), generator=source)
            latents = posterior.sample()[rows] * pipeline.vae.config.scaling_factor
            _step(pipeline.unet, scheduler, latents, states, optimizer, learnt)
        wait_for(device)
        done = steps
        seconds += time.perf_counter() - started
        pipeline.unet.eval()
        yield steps, seconds, pipeline, prompt


def _step(
    unet: Any, scheduler: Any, latents: Tensor, states: Tensor, optimizer: torch.optim.Optimizer, learnt: list[Any]
) -> None:
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noisy, target = noise_latents(scheduler, latents, torch.randn_like(latents), timesteps)
    answer = unet(noisy, timesteps, states.expand(len(latents), -1, -1)).sample
    loss = F.mse_loss(answer.float(), target.float())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learnt, 1.0)
    optimizer.step()
    optimizer.zero_grad()
