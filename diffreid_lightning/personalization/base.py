"""Base of trainings of a diffusion model on identities: the networks outside the module, one prediction."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from diffreid_lightning.datasets.training_rows import KEY, refuse_other_rows
from diffreid_lightning.diffusion.denoising_loop import decodable_size, scale_latents
from diffreid_lightning.diffusion.noise_schedule import training_scheduler
from diffreid_lightning.diffusion.pipeline_io import Pipeline
from diffreid_lightning.diffusion.prompt_cache import PromptCache
from diffreid_lightning.diffusion.prompt_encoding import (
    Conditioning,
    encode_prompts,
    encode_unconditional,
    text_encoders,
    tokenize,
    unet_arguments,
)
from diffreid_lightning.errors import UserError
from diffreid_lightning.personalization.datamodule import PersonalizationBatch, PersonalizationDataModule
from diffreid_lightning.personalization.fine_tuning import trained_weights
from diffreid_lightning.training.finite_weights import check_finite_weights
from diffreid_lightning.training.loss_sum import LossSum
from diffreid_lightning.training.trainer_parts import require_datamodule

_WARM_UP = "--model.warmup_steps"


class HeldPipeline:
    """The pipeline, outside the module's state dict; copies of the module (weight averages) share it.

    Args:
        pipeline: before the training adds names to its tokenizers; a personalized one has its identities' already.
        image_size: height and width in pixels.
    """

    def __init__(self, pipeline: Pipeline, image_size: tuple[int, int]) -> None:
        self.pipeline = pipeline
        self.image_size = image_size
        self.cached_prompts = PromptCache(pipeline, image_size, capacity=1024)
        names = [name for name in ("tokenizer", "tokenizer_2") if getattr(pipeline, name, None) is not None]
        self.tokenizers = {name: copy.deepcopy(getattr(pipeline, name)) for name in names}  # without names to come

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldPipeline:
        return self

    def networks(self) -> Iterable[Any]:
        """Return denoiser, autoencoder and text encoders."""
        return (self.pipeline.unet, self.pipeline.vae, *(encoder for _, encoder in text_encoders(self.pipeline)))

    def encode(self, prompts: list[str]) -> Conditioning:
        """Encode each distinct prompt once, with gradients; B prompts in order."""
        distinct = sorted(set(prompts) - {""})
        # The empty prompt comes first: it also looks an identity up, so every parameter gets a gradient.
        parts = [encode_unconditional(self.pipeline, self.image_size)] if "" in prompts else []
        if distinct:
            parts.append(encode_prompts(self.pipeline, distinct, self.image_size))
        places = {prompt: place for place, prompt in enumerate([""] * ("" in prompts) + distinct)}
        return Conditioning.cat(parts).take([places[prompt] for prompt in prompts])


class DenoiserTraining(LightningModule, ABC):
    """Base of the trainings of a pipeline's denoiser on a :class:`~.datamodule.PersonalizationDataModule`.

    The networks are outside the module's state dict; ``trained`` holds what a subclass trains of them. A checkpoint
    belongs to the training rows and to the model that the training started from.
    """

    image_size: tuple[int, int]  #: height and width in pixels
    scheduler: DDPMScheduler  #: adds the noise of training
    gradient_checkpointing = False
    _learned: ClassVar[str]  # weights that belong to identities, for error messages
    _origin_key: ClassVar[str]  # where a checkpoint keeps the hash of the model that the training starts from
    _other_origin: ClassVar[str]  # of a checkpoint that started from another model, for error messages

    def _hold(self, pipeline: Pipeline, name: str, content_hash: str, image_size: tuple[int, int]) -> None:
        """Keep the pipeline that is trained; for constructors.

        Args:
            pipeline: before the training adds names to it or marks weights.
            name: of the model that the training starts from, for error messages.
            content_hash: of that model. When a checkpoint is saved its files may have changed, or the hub be
                unreachable.
            image_size: height and width in pixels.

        Raises:
            UserError: the size cannot be decoded, or the noise process cannot be trained.
        """
        self.image_size = decodable_size(pipeline.vae, image_size)
        self.trained = nn.ParameterDict()
        self._held = HeldPipeline(pipeline, self.image_size)
        self.scheduler = training_scheduler(pipeline.scheduler, name)
        self._name, self._origin = name, content_hash
        self._configured = False
        self._loss_sum = LossSum(_WARM_UP)

    def configure_model(self) -> None:
        """Freeze the networks, and add and mark the trained weights; once.

        Raises:
            UserError: the DataModule is another kind, or does not fit; or a prompt is too long.
        """
        if self._configured:
            return
        self._check_data()
        pipeline = self._held.pipeline
        with torch.device("cpu"):  # Lightning may set the accelerator here; the pipeline is still on the CPU
            for network in self._held.networks():
                network.requires_grad_(False)
            self._add_trained(pipeline)
            for tokenizer, _ in text_encoders(pipeline):
                tokenize(tokenizer, self._data.longest_prompts())  # refuse prompts that are too long now, not mid-run
            self.trained = nn.ParameterDict(trained_weights(pipeline))
        self._configured = True

    @abstractmethod
    def _check_data(self) -> None:
        """Refuse data and a trainer that do not fit the model."""

    @abstractmethod
    def _add_trained(self, pipeline: Pipeline) -> None:
        """Add the identities' names and mark the trained weights of a frozen pipeline."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the digest of the training rows and the hash of the model that the training started from."""
        checkpoint[KEY] = self._data.training_rows
        checkpoint[self._origin_key] = self._origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other images or of a training that started from another model.

        Raises:
            UserError: the checkpoint does not match.
        """
        if self._trainer is None:
            return
        remedy = "train other identities in a new run, without --ckpt_path"
        refuse_other_rows(checkpoint, self._data.training_rows, self._learned, remedy)
        if checkpoint.get(self._origin_key) != self._origin:
            raise UserError(
                self._other_origin,
                found=f"model.model {self._name}, whose files have another content",
                remedy="give --model.model as the run was started (its config.yaml), or leave --ckpt_path out to "
                "start a new run",
            )

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

    def on_train_start(self) -> None:
        """Do what :meth:`on_train_epoch_start` does: an epoch that is taken up in its middle has no start."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Set the networks to training mode (dropout, checkpointing), which :meth:`pipeline` resets; start the sum."""
        for network in self._held.networks():
            network.train()
        self._loss_sum.start(self)

    def on_train_epoch_end(self) -> None:
        """Stop before diverged weights are saved or exported.

        Raises:
            RunError: a loss of the epoch or a trained weight is NaN or infinite.
        """
        self._loss_sum.check(self, self._rate)
        check_finite_weights(self, self.parameters(), _WARM_UP, self._rate)

    @property
    def _rate(self) -> float:
        """The current learning rate."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

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
