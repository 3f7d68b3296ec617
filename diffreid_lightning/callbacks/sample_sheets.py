"""What a diffusion model draws for fixed prompts, as a picture, while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image, ImageDraw

from diffreid_lightning.tracking import spared

_GAP, _LINE = 3, 13


def draw_samples(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Draw rows of images, each under its prompt.

    Args:
        rows: prompts with their images, all of one size.

    Returns:
        The sheet.
    """
    width, height = rows[0][1][0].size
    columns = max(len(images) for _, images in rows)
    size = (columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP + _LINE) + _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for line, (prompt, images) in enumerate(rows):
        top = _GAP + line * (height + _GAP + _LINE)
        pen.text((_GAP, top), prompt, fill=(20, 20, 20))
        for column, image in enumerate(images):
            sheet.paste(image, (_GAP + column * (width + _GAP), top + _LINE))
    return sheet


class SampleSheets(Callback):
    """Draw a sheet of samples by prompt into the run folder at validations, and log it to W&B.

    The noise is the same at every sheet. Needs a module whose ``pipeline()`` samples.

    Args:
        prompts: what is asked for, one row each.
        images_per_prompt: columns.
        every_n_epochs: epochs between sheets.
        steps: sampler steps.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598).
        image_size: height and width in pixels.
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
        sheet = draw_samples([(prompt, self._sample(pipeline, prompt)) for prompt in self.prompts])
        path = Path(trainer.default_root_dir) / "samples" / f"epoch-{trainer.current_epoch + 1:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                with spared(logger):
                    self._log(logger, sheet, trainer.global_step)

    def _sample(self, pipeline: Any, prompt: str) -> list[Image.Image]:
        generator = torch.Generator("cpu").manual_seed(0)
        images = pipeline(
            prompt, num_images_per_prompt=self.images_per_prompt, num_inference_steps=self.steps,
            guidance_scale=self.guidance, height=self.image_size[0], width=self.image_size[1], generator=generator,
        ).images  # fmt: skip
        return list(images)

    @staticmethod
    def _log(logger: WandbLogger, sheet: Image.Image, step: int) -> None:
        import wandb

        logger.experiment.log({"samples": wandb.Image(sheet), "trainer/global_step": step})
