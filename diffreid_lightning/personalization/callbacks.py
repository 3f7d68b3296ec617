"""Callbacks of personalization: export the model's folder, draw sheets of generated identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.training.trainer_parts import datamodule_of
from diffreid_lightning.visualization.grid import spread
from diffreid_lightning.visualization.sample_sheets import draw_samples, log_sheet, sample_images

FOLDER = "personalized"


class PersonalizationExport(Callback):
    """Save the trained model in the run folder when fit ends: ``personalized/``, or ``distilled/`` of a student.

    With a ``WeightAveraging`` callback the averaged weights are saved. For the files see
    :mod:`diffreid_lightning.personalization.checkpoint`.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that cannot be saved so before the training, not after it.

        Raises:
            UserError: it has no method ``save``.
        """
        _refuse_without("save", self, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder on rank zero."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        provenance: dict[str, Any] = {
            "training_data": datamodule_of(trainer).provenance,
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "module": type(pl_module).__name__,
        }
        folder = Path(trainer.default_root_dir) / getattr(pl_module, "exported", FOLDER)
        pl_module.save(folder, provenance)  # type: ignore[operator]
        rank_zero_info(f"Personalized model saved: {folder}")


class IdentitySheets(Callback):
    """Save a sheet of real and generated images of a few identities in the run folder, and log it to W&B.

    The prompts are those of training without circumstances; all sheets share the noise. The last sheet is drawn when
    fit ends, with averaged weights if there is a ``WeightAveraging`` callback.

    Args:
        identities: number of identities, evenly spread.
        images: real and generated images of each.
        every_n_epochs: epochs between sheets; None draws only the last one.
        steps: sampler steps.
        guidance: classifier-free guidance scale (Ho and Salimans, arXiv 2207.12598).

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        identities: int = 6,
        images: int = 6,
        every_n_epochs: int | None = None,
        steps: int = 25,
        guidance: float = 4.0,
    ) -> None:
        check_range("IdentitySheets.guidance", guidance, 0, 100)
        check_range("IdentitySheets.identities", identities, 1, 1000)
        check_range("IdentitySheets.images", images, 1, 1000)
        check_range("IdentitySheets.every_n_epochs", every_n_epochs, 1)
        check_range("IdentitySheets.steps", steps, 1, 1000)
        self.identities = identities
        self.images = images
        self.every_n_epochs = every_n_epochs
        self.steps = steps
        self.guidance = guidance

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that draws nothing before the training.

        Raises:
            UserError: it has no method ``pipeline``.
        """
        _refuse_without("pipeline", self, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a sheet every ``every_n_epochs`` epochs."""
        epoch = trainer.current_epoch + 1
        due = self.every_n_epochs is not None and epoch % self.every_n_epochs == 0 and epoch != trainer.max_epochs
        if due and self._draws(trainer):
            self._draw(trainer, pl_module, epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a sheet with the final weights."""
        if self._draws(trainer):
            pl_module.to(trainer.strategy.root_device)  # Lightning has moved it back to the CPU
            self._draw(trainer, pl_module, trainer.current_epoch)
            pl_module.cpu()
            pl_module.pipeline()  # type: ignore[operator]  # moves the networks outside the module, too

    @staticmethod
    def _draws(trainer: Trainer) -> bool:
        """Tell whether this process draws."""
        return trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        data: Any = datamodule_of(trainer)
        pipeline = pl_module.pipeline()  # type: ignore[operator]
        labels, _ = data.rows.identities()
        rows = []
        for place in spread(len(data.identities), self.identities).tolist():
            identity = data.identities[place]
            prompt = data.template(identity=identity.name, description=identity.description)
            # Under the trainer's precision: frozen weights may be in half precision beside trained ones in single.
            with trainer.precision_plugin.forward_context():
                drawn = sample_images(pipeline, prompt, self.images, self.steps, self.guidance, data.image_size)
            real = self._real(data, np.flatnonzero(labels == place)[: self.images].tolist())
            rows.append((prompt, [*real, *drawn]))
        log_sheet(trainer, draw_samples(rows), epoch)

    @staticmethod
    def _real(data: Any, rows: list[int]) -> list[Image.Image]:
        names = data.rows.table["file_name"]
        height, width = data.image_size
        return [data.rows.images.image(names[row].as_py()).resize((width, height)) for row in rows]


def _refuse_without(method: str, callback: Callback, module: LightningModule) -> None:
    """Refuse a module without a method that a callback calls when fit ends."""
    if not callable(getattr(module, method, None)):
        name = type(callback).__name__
        raise UserError(
            f"{name} does not work on {type(module).__name__}.",
            looked_for=f"a training of a diffusion model, with a method {method}",
            remedy=f"drop {name} from trainer.callbacks, or use --model Personalization",
        )
