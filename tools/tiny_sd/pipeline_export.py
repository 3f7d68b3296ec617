"""A trained diffusion model as a diffusers folder, at the end of fit."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.diffusion.pipeline_io import save_autoencoder, save_pipeline
from diffreid_lightning.errors import check_range
from diffreid_lightning.training.trainer_parts import datamodule_of


class DiffusionExport(Callback):
    """Save ``pipeline/`` (or ``autoencoder/``) in the run folder after validations and when fit ends.

    Weights that a ``WeightAveraging`` callback keeps are those that are saved, if it stands before this one.

    Args:
        every_n_epochs: epochs between two exports within fit; None exports at the end alone.

    Raises:
        UserError: ``every_n_epochs`` is below 1.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        check_range("DiffusionExport.every_n_epochs", every_n_epochs, 1)
        self.every_n_epochs = every_n_epochs

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export while averaged weights stand in for the current ones."""
        due = self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._save(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the final weights."""
        self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        provenance = {
            "training_data": getattr(datamodule_of(trainer), "provenance", {}),
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "module": type(pl_module).__name__,
        }
        root = Path(trainer.default_root_dir)
        pipeline = getattr(pl_module, "pipeline", None)
        if pipeline is not None:
            save_pipeline(pipeline(), root / "pipeline", provenance)
            rank_zero_info(f"Diffusion model saved: {root / 'pipeline'}")
        else:
            save_autoencoder(pl_module.autoencoder(), root / "autoencoder", provenance)  # type: ignore[operator]
            rank_zero_info(f"Autoencoder saved: {root / 'autoencoder'}")
