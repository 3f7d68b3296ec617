"""Draw sheets of samples for fixed prompts during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from diffreid_lightning.errors import UserError, check_image_size, check_range
from diffreid_lightning.picture_logging import log_picture
from diffreid_lightning.visualization.grid import draw_samples


def sample_images(
    pipeline: Any, prompt: str, count: int, steps: int, guidance: float, image_size: tuple[int, int]
) -> list[Image.Image]:
    """Draw images of a prompt from the same noise every time.

    Args:
        pipeline: a diffusers pipeline.
        prompt: what is asked for.
        count: how many.
        steps: sampler steps.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598).
        image_size: height and width in pixels.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    images = pipeline(
        prompt, num_images_per_prompt=count, num_inference_steps=steps, guidance_scale=guidance,
        height=image_size[0], width=image_size[1], generator=generator,
    ).images  # fmt: skip
    return list(images)


def log_sheet(trainer: Trainer, sheet: Image.Image, epoch: int) -> None:
    """Save a sheet as ``samples/epoch-NNNN.png`` in the run folder, and log it.

    Args:
        trainer: its run folder and loggers.
        sheet: the picture.
        epoch: how many were finished.
    """
    path = Path(trainer.default_root_dir) / "samples" / f"epoch-{epoch:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    log_picture(trainer, "samples", sheet)


class SampleSheets(Callback):
    """Draw a sheet of samples by prompt into the run folder at validations, and log it.

    The noise is the same at every sheet. Needs a module whose ``pipeline()`` samples.

    Args:
        prompts: what is asked for, one row each.
        images_per_prompt: columns.
        every_n_epochs: epochs between sheets.
        steps: sampler steps.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598).
        image_size: height and width in pixels.

    Raises:
        UserError: a number is out of its range, or there is no prompt.
    """

    def __init__(
        self,
        prompts: list[str],
        images_per_prompt: int = 8,
        every_n_epochs: int = 1,
        steps: int = 25,
        guidance: float = 4.0,
        image_size: tuple[int, int] = (128, 64),
    ) -> None:
        check_range("SampleSheets.guidance", guidance, 0, 100)
        check_image_size("SampleSheets.image_size", image_size)
        check_range("SampleSheets.images_per_prompt", images_per_prompt, 1, 1000)
        check_range("SampleSheets.every_n_epochs", every_n_epochs, 1)
        check_range("SampleSheets.steps", steps, 1, 1000)
        if not prompts:
            raise UserError(
                "SampleSheets.prompts is empty.", remedy="give a prompt for each row, or leave out the sheets"
            )
        self.prompts = prompts
        self.images_per_prompt = images_per_prompt
        self.every_n_epochs = every_n_epochs
        self.steps = steps
        self.guidance = guidance
        self.image_size = image_size

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw while averaged weights stand in for the current ones."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not due or trainer.sanity_checking or not trainer.is_global_zero:
            return
        pipeline = pl_module.pipeline()  # type: ignore[operator]
        drawn = [
            sample_images(pipeline, prompt, self.images_per_prompt, self.steps, self.guidance, self.image_size)
            for prompt in self.prompts
        ]
        log_sheet(trainer, draw_samples(list(zip(self.prompts, drawn, strict=True))), trainer.current_epoch + 1)
