"""Compute the denoising loss with min-SNR weights, and the prior-preservation loss of personalization."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.training_utils import compute_snr
from torch import Tensor

from diffreid_lightning.errors import UserError


def noise_latents(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Add noise to latents, and return the training target.

    Args:
        scheduler: a diffusers scheduler; its ``prediction_type`` decides the target.
        latents: (B, C, h, w) clean latents.
        noise: (B, C, h, w) standard normal.
        timesteps: (B,) int64 in 0..num_train_timesteps - 1.

    Returns:
        noisy: (B, C, h, w) input of the network.
        target: (B, C, h, w): the noise for ``epsilon`` (Ho et al., arXiv 2006.11239, eq. 14), the velocity for
            ``v_prediction`` (Salimans and Ho, arXiv 2202.00512, section 4), the latents for ``sample``.

    Raises:
        UserError: the scheduler's prediction type is none of these.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noisy, noise
    if kind == "v_prediction":
        return noisy, scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return noisy, latents
    raise UserError(
        f"The scheduler predicts {kind!r}.", looked_for="epsilon, v_prediction or sample", remedy="choose another one"
    )


def timestep_weights(scheduler: Any, timesteps: Tensor, gamma: float | None) -> Tensor:
    """Weigh timesteps by min-SNR-gamma (Hang et al., arXiv 2303.09556, eq. 8), for the scheduler's kind of prediction.

    Args:
        scheduler: a diffusers scheduler.
        timesteps: (B,) int64.
        gamma: upper limit of the signal-to-noise ratio; the paper uses 5. None weighs all alike.

    Returns:
        (B,) weights of the squared error of the prediction.
    """
    if gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    snr = compute_snr(scheduler, timesteps)
    clipped = snr.clamp(max=gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return clipped / snr.clamp(min=1e-8)
    return clipped / (snr + 1) if kind == "v_prediction" else clipped


def denoising_errors(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean squared error of each row.

    Args:
        prediction: (B, C, h, w).
        target: (B, C, h, w).
        weights: (B,).

    Returns:
        (B,) in float32, whatever the precision of the prediction.
    """
    return weights * (prediction.float() - target.float()).square().flatten(1).mean(dim=1)


def prior_preserving_loss(errors: Tensor, instances: int, prior_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute L = L_identity + lambda * L_prior (DreamBooth, Ruiz et al., arXiv 2208.12242, eq. 2).

    Args:
        errors: (B,) denoising error of each row: first the images of identities, then the prior images.
        instances: number of images of identities.
        prior_weight: lambda.

    Returns:
        The loss, the mean error over images of identities, and the mean error over prior images (0 without any).
    """
    identity, prior = errors[:instances].mean(), errors[instances:]
    mean_prior = prior.mean() if len(prior) else torch.zeros_like(identity)
    return identity + prior_weight * mean_prior, identity, mean_prior
