"""Compute consistency functions and their loss (Song et al., arXiv 2303.01469; latent: Luo et al., arXiv 2310.04378).

``alpha`` and ``sigma`` are the levels of signal and noise at a timestep: ``x_t = alpha x_0 + sigma noise``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import LCMScheduler
from torch import Tensor

_SAMPLER = LCMScheduler()  # of students: it defines c_skip and c_out


class Parts(NamedTuple):
    """Estimates behind a prediction."""

    origin: Tensor  #: (B, C, h, w) clean latents
    noise: Tensor  #: (B, C, h, w)


class SolverGrid(NamedTuple):
    """Steps of the ODE solver; S of them."""

    start: Tensor  #: (S,) int64 noisier timesteps, ascending
    end: Tensor  #: (S,) int64 timesteps that a step leads to; the first is 0


def solver_grid(timesteps: int, steps: int) -> SolverGrid:
    """Divide the process into the steps that :class:`diffusers.LCMScheduler` samples among.

    Args:
        timesteps: of training, T.
        steps: S, 1 to T; its ``original_inference_steps``.
    """
    width = timesteps // steps
    start = torch.arange(1, steps + 1) * width - 1
    return SolverGrid(start, (start - width).clamp(min=0))


def signal_and_noise(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at (B,) timesteps, each (B, 1, 1, 1)."""
    squared = scheduler.alphas_cumprod.to(timesteps.device)[timesteps][:, None, None, None]
    return squared.sqrt(), (1 - squared).sqrt()


def split_prediction(scheduler: Any, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Parts:
    """Split a denoiser's prediction into clean latents and noise, by the scheduler's prediction type.

    Args:
        scheduler: a diffusers scheduler; ``epsilon`` needs a signal at every timestep.
        prediction: (B, C, h, w).
        noisy: (B, C, h, w) the denoiser's input.
        timesteps: (B,) int64.
    """
    alpha, sigma = signal_and_noise(scheduler, timesteps)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return Parts((noisy - sigma * prediction) / alpha, prediction)
    if kind == "v_prediction":
        return Parts(alpha * noisy - sigma * prediction, sigma * noisy + alpha * prediction)
    return Parts(prediction, (noisy - alpha * prediction) / sigma)


def consistency_output(scheduler: Any, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Turn a prediction into the consistency function: ``f(x, t) = c_skip x + c_out x_0(x, t)`` (eq. 9).

    c_skip and c_out are 1 and 0 at timestep 0, so that ``f(x, 0) = x`` for every network, and nearly 0 and 1 at all
    others (arXiv 2310.04378, section 4.1).

    Args:
        scheduler: a diffusers scheduler.
        prediction: (B, C, h, w).
        noisy: (B, C, h, w) the denoiser's input.
        timesteps: (B,) int64.

    Returns:
        (B, C, h, w) latents at timestep 0.
    """
    skip, out = _SAMPLER.get_scalings_for_boundary_condition_discrete(timesteps.float()[:, None, None, None])
    return skip * noisy + out * split_prediction(scheduler, prediction, noisy, timesteps).origin


def ddim_step(scheduler: Any, prediction: Tensor, noisy: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Solve the probability-flow ODE from ``start`` to ``end`` by a step of DDIM (Song et al., arXiv 2010.02502).

    Args:
        scheduler: a diffusers scheduler.
        prediction: (B, C, h, w) at ``start``.
        noisy: (B, C, h, w) latents at ``start``.
        start: (B,) int64.
        end: (B,) int64, not above ``start``.

    Returns:
        (B, C, h, w) latents at ``end``.
    """
    alpha, sigma = signal_and_noise(scheduler, end)
    origin, noise = split_prediction(scheduler, prediction, noisy, start)
    return alpha * origin + sigma * noise


def pseudo_huber(prediction: Tensor, target: Tensor, c: float) -> Tensor:
    """Compute each row's mean of the pseudo-Huber distance ``sqrt(d^2 + c^2) - c`` (arXiv 2310.14189, eq. 7).

    Args:
        prediction: (B, C, h, w).
        target: (B, C, h, w).
        c: difference at which it turns from quadratic to absolute, above 0.

    Returns:
        (B,) in float32, whatever the precision of the prediction.
    """
    squared = (prediction.float() - target.float()).square()
    return ((squared + c * c).sqrt() - c).flatten(1).mean(dim=1)
