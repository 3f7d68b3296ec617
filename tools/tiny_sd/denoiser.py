"""Training a small text-to-image diffusion model from scratch: denoiser and text encoder together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import CLIPTokenizer

from diffreid_lightning.diffusion.denoising_loop import scale_latents
from diffreid_lightning.diffusion.losses import denoising_errors, noise_latents, timestep_weights
from diffreid_lightning.diffusion.lr_schedule import Schedule, optimize_by_step
from diffreid_lightning.diffusion.pipeline_io import assemble_pipeline, load_autoencoder, load_pipeline
from diffreid_lightning.errors import UserError, check_range
from diffreid_lightning.paths import user_path
from tools.tiny_sd.architectures import build_scheduler, build_text_encoder, build_unet
from tools.tiny_sd.caption_reading import CaptionReader, reading_loss, sentence_states
from tools.tiny_sd.datamodules import CaptionedLatents


class TextToImageTraining(LightningModule):
    """A latent diffusion model that answers to text (Rombach et al., arXiv 2112.10752), trained from nothing.

    Denoiser and text encoder learn together, the text encoder also from what its captions say; the autoencoder is
    given. Some captions are emptied, so that the model can be guided without a classifier (Ho and Salimans, arXiv
    2207.12598).

    Args:
        autoencoder: folder of the frozen autoencoder.
        tokenizer: folder of a CLIP tokenizer.
        unet: arguments of ``diffusers.UNet2DConditionModel``.
        text_encoder: arguments of ``transformers.CLIPTextConfig``.
        noise: arguments of ``diffusers.DDIMScheduler``.
        drop_caption: chance of an emptied caption, 0 to 1.
        snr_gamma: where min-SNR weighting cuts the signal-to-noise ratio off; None weighs timesteps alike.
        attributes: what a linear layer reads from the encoded captions beside, in training: the data's ``attributes``.
        reading_weight: weight of that task in the loss.
        init_from: a pipeline folder of the same architecture to start from.
        optimizer: makes the optimizer from the parameters.
        schedule: course of the learning rate after the warm-up.
        warmup_steps: steps over which the rate rises from zero.
    """

    #: arguments that a checkpoint overrules: a training that goes on from one cannot change them
    start_only: ClassVar[tuple[str, ...]] = ("init_from", "autoencoder", "tokenizer", "attributes")

    def __init__(
        self,
        autoencoder: str,
        tokenizer: str,
        unet: dict[str, Any],
        text_encoder: dict[str, Any],
        noise: dict[str, Any],
        drop_caption: float = 0.1,
        snr_gamma: float | None = 5.0,
        attributes: Sequence[str] = (),
        reading_weight: float = 0.1,
        init_from: str | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=5e-4, weight_decay=0.01),
        schedule: Schedule = "constant_with_warmup",
        warmup_steps: int = 500,
    ) -> None:
        super().__init__()
        check_range("model.drop_caption", drop_caption, 0, 1, below=True)
        check_range("model.reading_weight", reading_weight)
        check_range("model.warmup_steps", warmup_steps)
        check_range("model.snr_gamma", snr_gamma, above=True)
        self.tokenizer = _load_tokenizer(tokenizer)
        self.scheduler = build_scheduler(noise)
        # Frozen, and on disk already: kept out of checkpoints and averages.
        self._vae = [load_autoencoder(autoencoder).eval().requires_grad_(False)]
        self.unet = build_unet(unet)
        self.text_encoder = build_text_encoder(text_encoder, self.tokenizer)
        self.reader = CaptionReader(self.text_encoder.config.hidden_size, len(attributes)) if attributes else None
        self.reading_weight = reading_weight
        if init_from is not None:
            start = load_pipeline(init_from)
            self.unet.load_state_dict(start.unet.state_dict())
            self.text_encoder.load_state_dict(start.text_encoder.state_dict())
        self.unet.to(memory_format=torch.channels_last)
        self.drop_caption = drop_caption
        self.snr_gamma = snr_gamma
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.val_loss = MeanMetric()

    @property
    def vae(self) -> Any:
        """The frozen autoencoder."""
        return self._vae[0]

    def pipeline(self) -> StableDiffusionPipeline:
        """Put the model into a pipeline that samples; it shares the module's weights."""
        vae = self.vae.to(self.device)
        if vae.dtype != self.unet.dtype:  # trainer.precision converted the denoiser, and a pipeline is of one type
            vae = copy.deepcopy(vae).to(self.unet.dtype)
        return assemble_pipeline(self.unet, vae, self.text_encoder, self.tokenizer, self.scheduler)

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule."""
        return optimize_by_step(self, self.parameters(), self.optimizer, self.schedule, self.warmup_steps)

    def on_fit_start(self) -> None:
        """Choose the attention that trains fastest here."""
        if self.device.type == "cpu":
            # The fused kernel's backward pass takes twice as long there as plain matrix products, on short sequences.
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.set_attn_implementation("eager")

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            captions: B texts.

        Returns:
            states: (B, L, D).
            tokens: (B, L) int64.
        """
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(self.device)
        return self.text_encoder(tokens).last_hidden_state, tokens

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Predict what the scheduler asks for.

        Args:
            noisy: (B, C, h, w) latents with noise.
            timesteps: (B,) int64.
            states: (B, L, D) encoded captions.

        Returns:
            (B, C, h, w).
        """
        prediction: Tensor = self.unet(noisy, timesteps, states).sample
        return prediction

    def _loss(self, batch: CaptionedLatents, generator: torch.Generator | None, states: Tensor) -> Tensor:
        mean, logvar = batch.moments.chunk(2, dim=1)
        shape = mean.shape

        def normal() -> Tensor:
            return torch.randn(shape, generator=generator, device=self.device)

        latents = scale_latents(self.vae, mean + (0.5 * logvar.clamp(-30, 20)).exp() * normal())
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (shape[0],), generator=generator, device=self.device)
        noisy, target = noise_latents(self.scheduler, latents, normal(), timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        weights = timestep_weights(self.scheduler, timesteps, self.snr_gamma)
        return denoising_errors(self(noisy, timesteps, states), target, weights).mean()

    def training_step(self, batch: CaptionedLatents, batch_idx: int) -> Tensor:
        """Denoise under captions, some of them emptied."""
        dropped = torch.rand(len(batch.captions)) < self.drop_caption
        captions = ["" if empty else text for text, empty in zip(batch.captions, dropped.tolist(), strict=True)]
        states, tokens = self.encode(captions)
        loss = self._loss(batch, None, states)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(captions))
        if self.reader is not None:
            values = batch.attributes.masked_fill(dropped.to(self.device).unsqueeze(1), -1)
            sentences = sentence_states(states, tokens, self.tokenizer.eos_token_id)
            reading = reading_loss(self.reader(sentences), values)
            self.log("train/reading_loss", reading.detach(), batch_size=len(captions))
            loss = loss + self.reading_weight * reading
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(captions))
        return loss

    def validation_step(self, batch: CaptionedLatents, batch_idx: int) -> None:
        """The same loss on held-out captions, with the same noise every time."""
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        states, _ = self.encode(batch.captions)
        self.val_loss.update(self._loss(batch, generator, states), weight=len(batch.captions))

    def on_validation_epoch_end(self) -> None:
        """Log it."""
        self.log("val/loss", self.val_loss.compute(), prog_bar=True)
        self.val_loss.reset()


def _load_tokenizer(path: str) -> CLIPTokenizer:
    folder = user_path(path)
    if not (folder / "vocab.json").is_file():
        raise UserError(
            f"There is no tokenizer at {path}",
            looked_for="vocab.json and merges.txt of a CLIP tokenizer",
            remedy="learn one: python -m tools.tiny_sd.tokenizer MANIFEST --out DIR",
        )
    return CLIPTokenizer.from_pretrained(folder)
