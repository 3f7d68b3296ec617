"""Base of trainings of a diffusion model on identities: the networks outside the module, one prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from diffreid_lightning.diffusion.denoising_loop import decodable_size, scale_latents
from diffreid_lightning.diffusion.noise_schedule import training_scheduler
from diffreid_lightning.diffusion.pipeline_io import Pipeline
from diffreid_lightning.diffusion.prompt_encoding import Conditioning, unet_arguments
from diffreid_lightning.personalization.datamodule import PersonalizationBatch, PersonalizationDataModule
from diffreid_lightning.personalization.held_pipeline import HeldPipeline
from diffreid_lightning.training.finite_weights import check_finite_weights
from diffreid_lightning.training.trainer_parts import require_datamodule


class DenoiserTraining(LightningModule):
    """Base of the trainings of a pipeline's denoiser on a :class:`~.datamodule.PersonalizationDataModule`.

    The networks are outside the module's state dict; ``trained`` holds what a subclass trains of them.
    """

    image_size: tuple[int, int]  #: height and width in pixels
    scheduler: DDPMScheduler  #: adds the noise of training
    gradient_checkpointing = False

    def _hold(self, pipeline: Pipeline, name: str, image_size: tuple[int, int]) -> None:
        """Keep the pipeline that is trained; for constructors.

        Args:
            pipeline: before names are added to it or weights marked.
            name: of the checkpoint, for error messages.
            image_size: height and width in pixels.

        Raises:
            UserError: the size cannot be decoded, or the noise process cannot be trained.
        """
        self.image_size = decodable_size(pipeline.vae, image_size)
        self.trained = nn.ParameterDict()
        self._held = HeldPipeline(pipeline, self.image_size)
        self.scheduler = training_scheduler(pipeline.scheduler, name)

    def on_fit_start(self) -> None:
        """Move the networks to the device, in the memory layout that trains fastest there."""
        pipeline = self._held.pipeline
        for network in self._held.networks():
            network.to(self.device)
        pipeline.unet.to(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            # The fused kernel's backward pass takes twice as long there as plain matrix products, on short sequences.
            pipeline.unet.set_attn_processor(AttnProcessor())
        if self.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()

    def on_train_epoch_start(self) -> None:
        """Set the networks to training mode (dropout, checkpointing); :meth:`pipeline` resets it."""
        for network in self._held.networks():
            network.train()

    def on_train_epoch_end(self) -> None:
        """Stop before diverged weights are saved or exported.

        Raises:
            RunError: a trained weight is NaN or infinite.
        """
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        check_finite_weights(self, self.parameters(), "--model.warmup_steps", rate)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict the noise, velocity or latents, by the scheduler's prediction type.

        Args:
            noisy: (B, C, h, w) latents with noise.
            timesteps: (B,) int64.
            conditioning: B encoded prompts.
            weights: tensors in the place of the denoiser's own, by name; None for none.

        Returns:
            (B, C, h, w).
        """
        unet = self._held.pipeline.unet
        conditioning = conditioning.to(unet.dtype)
        noisy = noisy.to(unet.dtype).contiguous(memory_format=torch.channels_last)
        inputs, others = (noisy, timesteps), unet_arguments(conditioning)
        answer = unet(*inputs, **others) if weights is None else functional_call(unet, dict(weights), inputs, others)
        prediction: Tensor = answer.sample
        return prediction

    def _latents(self, batch: PersonalizationBatch) -> Tensor:
        """Sample latents from the images' posteriors and append the prior images': (B + P, C, h, w)."""
        mean, logvar = batch.moments.chunk(2, dim=1)
        drawn = mean + (0.5 * logvar.clamp(-30, 20)).exp() * torch.randn_like(mean)
        return torch.cat([scale_latents(self._held.pipeline.vae, drawn), batch.prior_latents])

    @property
    def unet(self) -> Any:
        """The denoiser, for callbacks that compile it."""
        return self._held.pipeline.unet

    def pipeline(self) -> Pipeline:
        """Return a sampling pipeline with the identities' names; it shares the module's weights."""
        for network in self._held.networks():
            network.to(self.device).eval()
        return self._held.pipeline

    @property
    def _data(self) -> PersonalizationDataModule:
        return require_datamodule(self.trainer, PersonalizationDataModule, type(self).__name__)
