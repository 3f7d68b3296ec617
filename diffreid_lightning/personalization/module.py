"""LPE: fine-tune one diffusion model on many identities at once, each under a token of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers.training_utils import cast_training_params
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.losses import (
    denoising_errors,
    noise_latents,
    prior_preserving_loss,
    timestep_weights,
)
from diffreid_lightning.diffusion.lr_schedule import Schedule, optimize_by_step
from diffreid_lightning.diffusion.pipeline_io import Pipeline, load_pipeline, replace_model_folder
from diffreid_lightning.diffusion.prompt_encoding import Conditioning, text_encoders
from diffreid_lightning.errors import UserError, check_image_size, check_range
from diffreid_lightning.paths import user_path
from diffreid_lightning.personalization.base import DenoiserTraining
from diffreid_lightning.personalization.checkpoint import IDENTITIES_FILE, write_tokens
from diffreid_lightning.personalization.datamodule import PersonalizationBatch
from diffreid_lightning.personalization.fine_tuning import FineTuning, freeze_unread
from diffreid_lightning.personalization.identity_tokens import FreeTokens, IdentityTokens, People
from diffreid_lightning.personalization.lora import LoRA
from diffreid_lightning.personalization.row_adamw import RowAdamW
from diffreid_lightning.personalization.token_embedding import inject
from diffreid_lightning.storage.json_notes import write_json

_MIXED = {"bfloat16": "bf16-mixed", "float16": "16-mixed"}


class Personalization(DenoiserTraining):
    """Fine-tune a text-to-image diffusion model on known identities (LPE, Niu et al., arXiv 2406.06045).

    Identity tokens: each identity has a name in the prompt, and the name has trained embedding vectors (``tokens``).
    ``fine_tuning`` selects the network weights that are trained beside them.

    Loss: ``L_identity + prior_weight * L_prior`` (DreamBooth, Ruiz et al., arXiv 2208.12242, eq. 2). ``L_identity`` is
    the denoising error on images of identities, under prompts with names; ``L_prior`` the same on prior images, which
    the frozen base model generated from prompts without names, so that the model does not forget them. The noise
    schedule and the prediction type are the base model's.

    Checkpoints and averages hold only trained weights.

    Args:
        model: the base model, of the SD 1.x, SD 2.x or SDXL layout: a folder, a hub id, or ``tiny-sd``.
        tokens: identity tokens; None means :class:`FreeTokens` with its defaults.
        fine_tuning: selects the trained network weights; None means :class:`LoRA` with its defaults.
        image_size: height and width in pixels; on the command line it is set as ``data.image_size``.
        prior_weight: lambda, weight of the prior loss.
        snr_gamma: clipping value of min-SNR weighting; None weighs timesteps alike. 5.0 suits Stable Diffusion 1.5, not
            tiny-sd, whose noisiest steps would have next to no weight.
        drop_prompt: probability of dropping the prompt (classifier-free guidance training), 0 to 1.
        frozen_dtype: dtype of the frozen weights: ``bfloat16`` beside ``trainer.precision: bf16-mixed``
            and ``float16`` beside ``16-mixed`` halve their memory.
        gradient_checkpointing: recompute the denoiser's activations in the backward pass: less memory, more time.
        optimizer: builds the optimizer from the parameters.
        token_lr: learning rate of the identities' vectors, or of the network that maps to them.
        schedule: learning-rate schedule after the warm-up.
        warmup_steps: steps of linear warm-up from zero.

    Raises:
        UserError: the base model is not available, or arguments contradict each other.
    """

    #: arguments that a resumed checkpoint overrules
    start_only: ClassVar[tuple[str, ...]] = ("tokens",)
    _learned = "vectors"
    _origin_key = "base_model"
    _other_origin = "The checkpoint was trained from another base model."

    def __init__(
        self,
        model: str = "tiny-sd",
        tokens: IdentityTokens | None = None,
        fine_tuning: FineTuning | None = None,
        image_size: tuple[int, int] = (256, 128),
        prior_weight: float = 1.0,
        snr_gamma: float | None = None,
        drop_prompt: float = 0.0,
        frozen_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = lambda params: RowAdamW(params, lr=1e-4, weight_decay=1e-2),
        token_lr: float = 1e-3,
        schedule: Schedule = "constant_with_warmup",
        warmup_steps: int = 50,
    ) -> None:
        super().__init__()
        check_image_size("model.image_size", image_size)
        check_range("model.drop_prompt", drop_prompt, 0, 1, below=True)
        check_range("model.prior_weight", prior_weight)
        check_range("model.token_lr", token_lr)
        check_range("model.warmup_steps", warmup_steps)
        check_range("model.snr_gamma", snr_gamma, above=True)
        self.model = model
        self.tokens = tokens or FreeTokens()
        self.fine_tuning = fine_tuning or LoRA()
        self.prior_weight = prior_weight
        self.snr_gamma = snr_gamma
        self.drop_prompt = drop_prompt
        self.frozen_dtype = frozen_dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.optimizer = optimizer
        self.token_lr = token_lr
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        pipeline = load_pipeline(model, getattr(torch, frozen_dtype))
        self._hold(pipeline, model, weights_hash(locate_pipeline(model)), image_size)

    # Set-up.

    def prepare_data(self) -> None:
        """Compute the features that the tokens are made from; on one process."""
        self.tokens.prepare_data(self._data.pictures)

    def _add_trained(self, pipeline: Pipeline) -> None:
        encoders, data = text_encoders(pipeline), self._data
        vocabularies = [encoder.get_input_embeddings().weight for _, encoder in encoders]
        self.tokens.initialize(People(data.pictures, [tokenizer for tokenizer, _ in encoders], vocabularies))
        inject(pipeline, self.tokens, [identity.name for identity in data.identities])
        self.fine_tuning.prepare(pipeline)
        cast_training_params(list(self._held.networks()), torch.float32)  # the frozen weights may be in half precision
        freeze_unread(pipeline)  # after the cast, so that its dtype matches the trained layers beside it

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule: a parameter group for the networks, and those of the tokens."""
        networks = list(self.trained.values())
        groups: list[Any] = [{"params": networks}] if networks else []
        groups += self.tokens.groups(self.token_lr)
        if not groups:
            raise UserError(
                "Nothing is trained.",
                found=f"{type(self.tokens).__name__} with {type(self.fine_tuning).__name__}",
                remedy="choose other model.tokens, or another model.fine_tuning",
            )
        return optimize_by_step(self, groups, self.optimizer, self.schedule, self.warmup_steps)

    # One step.

    def training_step(self, batch: PersonalizationBatch, batch_idx: int) -> Tensor:
        """Denoise images of identities and prior images in one pass."""
        latents = self._latents(batch)
        timesteps = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device)
        noisy, target = noise_latents(self.scheduler, latents, torch.randn_like(latents), timesteps)
        prediction = self(noisy, timesteps, self._conditioning(batch))
        weights = timestep_weights(self.scheduler, timesteps, self.snr_gamma)
        errors = denoising_errors(prediction, target, weights)
        loss, identity, prior = prior_preserving_loss(errors, len(batch.moments), self.prior_weight)
        self._loss_sum.watch(self, loss, batch_idx, self._rate)
        size = len(batch.moments)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log("train/identity_loss", identity.detach(), batch_size=size)
        if len(batch.prior_latents):
            self.log("train/prior_loss", prior.detach(), batch_size=len(batch.prior_latents))
        self.log("train/learning_rate", self._rate, batch_size=size)
        return loss

    def _conditioning(self, batch: PersonalizationBatch) -> Conditioning:
        """Encode each distinct prompt once; prompts without a name are cached across batches."""
        dropped = (torch.rand(len(batch.prompts)) < self.drop_prompt).tolist()
        prompts = ["" if empty else prompt for prompt, empty in zip(batch.prompts, dropped, strict=True)]
        if self.fine_tuning.text_encoder:
            return self._held.encode([*prompts, *batch.prior_prompts])
        conditioning = self._held.encode(prompts)
        if not batch.prior_prompts:
            return conditioning
        with torch.no_grad():
            prior = self._held.cached_prompts(batch.prior_prompts)
        return Conditioning.cat([conditioning, prior.to(conditioning.states.dtype)])

    # Results.

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the personalized model, whole or not at all.

        Args:
            folder: output folder; its content is replaced.
            provenance: written as ``provenance.json``.

        Raises:
            RunError: the disk is full.
        """
        plain = copy.copy(self.pipeline())
        plain.register_modules(**self._held.tokenizers)
        data = self._data
        note = {
            "base": {"model": _portable(self.model), "weights": self._origin},
            "template": data.template.text,
            "identities": [each.entry for each in data.identities],
        }
        with replace_model_folder(folder, provenance) as target:
            self.fine_tuning.save(plain, target, provenance)
            write_tokens(target, [each.name for each in data.identities], self.tokens.table())
            self.tokens.save(target)
            write_json(target / IDENTITIES_FILE, note, ensure_ascii=False)

    def _check_data(self) -> None:
        theirs = self._data.model
        if theirs != self.model and weights_hash(locate_pipeline(theirs)) != self._origin:
            raise UserError(
                "Model and data name different base models.",
                found=f"model.model {self.model}, data.model {theirs}",
                remedy="give both the same; configs say data.model: ${model.init_args.model}",
            )
        wanted = _MIXED.get(self.frozen_dtype, self.trainer.precision)
        if self.trainer.precision != wanted:
            raise UserError(
                f"Frozen weights in {self.frozen_dtype} and trained ones in float32 need mixed precision.",
                looked_for=f"trainer.precision {wanted}",
                found=self.trainer.precision,
                remedy=f"use --trainer.precision {wanted}, or --model.frozen_dtype float32",
            )


def _portable(model: str) -> str:
    """Make a local base model's path absolute."""
    path = user_path(model)
    return str(path.resolve()) if path.exists() else model
