"""Training the autoencoder in whose latents the denoiser works."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio

from diffreid_lightning.diffusion.lr_schedule import Schedule, optimize_by_step
from diffreid_lightning.diffusion.pipeline_io import load_autoencoder
from diffreid_lightning.errors import check_range
from tools.tiny_sd.adversary import PatchAdversary, balance, discriminator_loss
from tools.tiny_sd.architectures import build_autoencoder
from tools.tiny_sd.datamodules import ImageBatch
from tools.tiny_sd.perceptual import PerceptualDistance

_POWER_RATE = 0.02  # of the running mean square of the latents


class AutoencoderTraining(LightningModule):
    """A variational autoencoder of images (Rombach et al., arXiv 2112.10752, section 3.1).

    The loss is the mean absolute error, plus a perceptual distance, plus a slight pull of the latents towards a
    standard normal distribution, plus, with an adversary, what it costs not to deceive it. The adversary learns in the
    same step, by the same optimizer.

    Args:
        architecture: arguments of ``diffusers.AutoencoderKL``.
        perceptual: distance of reconstruction and image in features; None leaves it out.
        perceptual_weight: its weight beside the absolute error.
        kl_weight: weight of the divergence from the standard normal distribution, in nats per latent number.
        adversary: tells reconstructions from images; None leaves it out.
        adversary_weight: its weight, once its gradient has been brought to the size of the errors'.
        freeze_encoder: train the decoder alone, so that a denoiser of these latents stays valid.
        init_from: folder of an autoencoder of the same architecture to start from.
        optimizer: makes the optimizer from the parameters.
        schedule: course of the learning rate after the warm-up.
        warmup_steps: steps over which the rate rises from zero.
    """

    latent_power: Tensor

    #: arguments that a checkpoint overrules: a training that goes on from one cannot change them
    start_only: ClassVar[tuple[str, ...]] = ("init_from",)

    def __init__(
        self,
        architecture: dict[str, Any],
        perceptual: PerceptualDistance | None = None,
        perceptual_weight: float = 0.2,
        kl_weight: float = 1e-3,
        adversary: PatchAdversary | None = None,
        adversary_weight: float = 0.5,
        freeze_encoder: bool = False,
        init_from: str | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0),
        schedule: Schedule = "cosine",
        warmup_steps: int = 200,
    ) -> None:
        super().__init__()
        for name, weight in (
            ("perceptual_weight", perceptual_weight),
            ("kl_weight", kl_weight),
            ("adversary_weight", adversary_weight),
            ("warmup_steps", warmup_steps),
        ):
            check_range(f"model.{name}", weight)
        self.vae = build_autoencoder(architecture)
        # Mean square of the latents: kept in checkpoints, since a run taken up after its last epoch measures nothing.
        self.register_buffer("latent_power", torch.tensor(float("nan")))
        if init_from is not None:
            start = load_autoencoder(init_from)
            self.vae.load_state_dict(start.state_dict())
            self.latent_power.fill_(start.config.scaling_factor**-2)
        self.vae.to(memory_format=torch.channels_last)
        # A measure, not a part of the model: kept out of checkpoints and averages.
        self._perceptual = [perceptual] if perceptual is not None else []
        self.perceptual_weight = perceptual_weight
        self.kl_weight = kl_weight
        self.adversary = adversary
        self.adversary_weight = adversary_weight
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            for part in (self.vae.encoder, self.vae.quant_conv):
                if part is not None:
                    part.requires_grad_(False)
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.error, self.spread = MeanMetric(), MeanMetric()
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule."""
        trained = [each for each in self.parameters() if each.requires_grad]
        return optimize_by_step(self, trained, self.optimizer, self.schedule, self.warmup_steps)

    def autoencoder(self) -> AutoencoderKL:
        """Return the autoencoder, its config with the scale that brings latents to unit variance, as last measured."""
        if not self.latent_power.isnan():
            self.vae.register_to_config(scaling_factor=round(float(self.latent_power.rsqrt()), 5))
        return self.vae

    def on_fit_start(self) -> None:
        """Bring the measure to the device, and keep the latents' power exact where the network was converted."""
        self.latent_power = self.latent_power.float()
        for measure in self._perceptual:
            measure.to(self.device)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images, (B, 3, H, W) in 0..1, from the means of their latents."""
        mean = self._encoded(images).mean
        return (self.vae.decode(mean).sample / 2 + 0.5).float()

    def _encoded(self, images: Tensor) -> Any:
        """Return the posterior of images in 0..1, which are given the autoencoder's type (trainer.precision)."""
        return self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Reconstruct from sampled latents."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        posterior = self._encoded(images)
        rebuilt = self.vae.decode(posterior.sample()).sample / 2 + 0.5
        if not self.freeze_encoder:
            power = posterior.mean.detach().float().square().mean()
            self.latent_power.copy_(power if self.latent_power.isnan() else self.latent_power.lerp(power, _POWER_RATE))
        error = (rebuilt.float() - images).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        total = error + self.kl_weight * divergence
        size = len(images)
        for measure in self._perceptual:
            distance = measure(rebuilt, images)
            total = total + self.perceptual_weight * distance
            self.log("train/perceptual", distance.detach(), batch_size=size)
        if self.adversary is not None:
            total = total + self._contest(self.adversary, rebuilt, images, total)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        self.log("train/absolute_error", error.detach(), prog_bar=True, batch_size=size)
        self.log("train/kl", divergence.detach(), batch_size=size)
        return total

    def _contest(self, adversary: PatchAdversary, rebuilt: Tensor, images: Tensor, errors: Tensor) -> Tensor:
        """Loss of the decoder before the adversary, and of the adversary."""
        deceit = -adversary.frozen(rebuilt).mean()
        weight = self.adversary_weight * balance(errors, deceit, rebuilt)
        detection = discriminator_loss(adversary(images), adversary(rebuilt.detach()))
        self.log("train/detection", detection.detach(), prog_bar=True, batch_size=len(images))
        self.log("train/adversary_weight", weight, batch_size=len(images))
        return weight * deceit + detection

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Measure reconstructions and the spread of the latents."""
        mean = self._encoded(batch.images).mean
        rebuilt = (self.vae.decode(mean).sample / 2 + 0.5).float().clamp(0, 1)
        self.error.update((rebuilt - batch.images).abs().mean(), weight=len(mean))
        self.psnr.update(rebuilt, batch.images)
        self.spread.update(mean.float().square().mean(), weight=len(mean))

    def on_validation_epoch_end(self) -> None:
        """Log them; held-out images say more of the latents' spread than the last training images."""
        spread = self.spread.compute()
        if not self.freeze_encoder:  # a denoiser of these latents goes by the scale they have
            self.latent_power.copy_(spread)
        self.log_dict(
            {
                "val/absolute_error": self.error.compute(),
                "val/psnr": self.psnr.compute(),
                "val/latent_scale": spread.rsqrt(),
            },
            prog_bar=True,
        )
        for metric in (self.error, self.psnr, self.spread):
            metric.reset()
