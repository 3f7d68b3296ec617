"""Denoise latents: guidance by any number of prompts, one forward pass of the denoiser per step and batch."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from diffreid_lightning.diffusion.diffusion_sampler import Sampler
from diffreid_lightning.diffusion.prompt_encoding import Conditioning, unet_arguments
from diffreid_lightning.errors import RunError, UserError, check_range

Weights = npt.NDArray[np.float32]
_MOST_GUIDANCE = 100  # images are unrecognizable far below this scale


class Decoded(NamedTuple):
    """Pictures that were decoded."""

    pictures: Tensor  #: (B, 3, H, W) uint8; black where not finite
    finite: Tensor  #: (B,) bool on the CPU: what the autoencoder gave were numbers

    @classmethod
    def cat(cls, parts: Sequence[Decoded]) -> Decoded:
        """Concatenate the pictures of parts of a batch."""
        return cls(torch.cat([part.pictures for part in parts]), torch.cat([part.finite for part in parts]))


class Guidance(NamedTuple):
    """Encoded prompts of a batch of B images, and their weights at every call of the denoiser."""

    unconditional: Conditioning  #: B rows without a prompt
    prompts: list[Conditioning]  #: K times B rows
    weights: Weights  #: (calls, K, B)
    rescale: float = 0.0  #: guidance rescale, 0 to 1

    def take(self, rows: range) -> Guidance:
        """Select images of the batch."""
        unconditional, prompts = self.unconditional.take(rows), [prompt.take(rows) for prompt in self.prompts]
        return Guidance(unconditional, prompts, self.weights[..., rows], self.rescale)


def find_evaluated(weights: Weights) -> npt.NDArray[np.bool_]:
    """Find the predictions that each call evaluates.

    Args:
        weights: (calls, K, B).

    Returns:
        (calls, 1 + K): first the unconditional prediction, which is not needed if the weights of every image sum to
        one, then the prompts.
    """
    unprompted = ~np.isclose(weights.sum(axis=1), 1).all(axis=1)  # 1 + 0.1 - 0.1 is not 1 in float32
    return np.column_stack([unprompted, (weights != 0).any(axis=2)])


def limit_guidance(weights: Weights, interval: tuple[float, float], begin: float = 0.0) -> Weights:
    """Limit guidance to an interval of the process (Kynkäänniemi et al., arXiv 2404.07724).

    Args:
        weights: (calls, K, B).
        interval: where prompts guide, as shares of the steps: 0 is the first (noise), 1 the end of the last (image).
        begin: share of the steps before the first call, which a strategy that starts from an image leaves out.

    Returns:
        (calls, K, B). Outside the interval the first prompt has weight 1 and the others 0, which is one evaluation of
        the denoiser.
    """
    place = begin + (1 - begin) * np.arange(len(weights)) / max(len(weights), 1)
    place = place.round(9)  # 0.3 + 0.7 * 3 / 7 is 0.6
    within = (place >= interval[0]) & (place < interval[1])
    alone = np.zeros_like(weights)
    alone[:, 0] = 1
    return np.where(within[:, None, None], weights, alone)


def denoise(
    unet: Any,
    sampler: Sampler,
    guidance: Guidance,
    latents: Tensor,
    timesteps: Tensor,
    generators: Sequence[torch.Generator],
    stop: Event | None = None,
) -> Tensor:
    """Denoise a batch of latents; the numbered comments are the steps.

    Args:
        unet: the denoiser.
        sampler: after :meth:`~.diffusion_sampler.Sampler.begin`.
        guidance: prompts and weights; prompts without weight in a call are not evaluated.
        latents: (B, C, h, w) float32, from :meth:`~.diffusion_sampler.Sampler.start`.
        timesteps: (calls,) from :meth:`~.diffusion_sampler.Sampler.begin`.
        generators: one per image.
        stop: once it is set, the denoiser is not called again: the result is not wanted any more.

    Returns:
        (B, C, h, w) float32 latents of the images.

    Raises:
        RuntimeError: ``stop`` was set.
    """
    asked = find_evaluated(guidance.weights)
    weights = torch.tensor(np.ascontiguousarray(guidance.weights), device=latents.device)[..., None, None, None]
    everything = [guidance.unconditional, *guidance.prompts]
    arguments: dict[str, Any] = {}
    on_device = timesteps.to(latents.device)
    for call, timestep in enumerate(timesteps):
        if stop is not None and stop.is_set():
            raise RuntimeError("stopped")
        # 1. Concatenate the conditioning where other prompts are evaluated than in the call before.
        if call == 0 or (asked[call] != asked[call - 1]).any():
            arguments = unet_arguments(Conditioning.cat([everything[number] for number in np.flatnonzero(asked[call])]))
        # 2. Predict for every image under every prompt, in one pass.
        passes = int(asked[call].sum())
        seen = sampler.scale_input(latents, timestep).to(unet.dtype).repeat(passes, 1, 1, 1)
        answer = unet(seen, on_device[call], **arguments, return_dict=False)[0]
        # 3. Compose the predictions (arXiv 2206.01714, eq. 11). 4. Take the sampler's step.
        predicted = compose(answer.float().chunk(passes), asked[call], weights[call], guidance.rescale)
        latents = sampler.step(predicted, timestep, latents, generators)
    return latents


def compose(predictions: Sequence[Tensor], asked: Sequence[bool], weights: Tensor, rescale: float) -> Tensor:
    """Compose the predictions of one call: ``e(x) + sum_k w_k (e(x, c_k) - e(x))`` (arXiv 2206.01714, eq. 11).

    Args:
        predictions: (B, C, h, w) each, of the evaluated prompts, in order.
        asked: 1 + K; whether the unconditional prediction was evaluated, then for each prompt.
        weights: (K, B, 1, 1, 1), or a shape that broadcasts to K times (B, C, h, w).
        rescale: guidance rescale to the first prompt's contrast (Lin et al., arXiv 2305.08891, section 3.4).

    Returns:
        (B, C, h, w).
    """
    prompted = list(predictions[1:] if asked[0] else predictions)
    used = [weight for weight, wanted in zip(weights, asked[1:], strict=True) if wanted]
    if not asked[0] and len(prompted) == 1:  # every image has weight one
        return prompted[0]
    if asked[0]:
        base = predictions[0]
        composed = base
        for prediction, weight in zip(prompted, used, strict=True):
            composed = composed + weight * (prediction - base)
    else:
        composed = sum((weight * each for weight, each in zip(used, prompted, strict=True)), torch.zeros(()))
    if rescale and asked[1]:
        composed = rescale_noise_cfg(composed, prompted[0], guidance_rescale=rescale)
    return composed


def encode_images(vae: Any, images: Tensor) -> Tensor:
    """Encode images to scaled latents.

    Args:
        vae: the autoencoder.
        images: (B, 3, H, W) uint8.

    Returns:
        (B, C, h, w) float32: the mean of the posterior, scaled.
    """
    posterior = vae.encode((images.float() / 127.5 - 1).to(vae.dtype)).latent_dist
    return scale_latents(vae, posterior.mean.float())


def decode_latents(vae: Any, latents: Tensor, chunk: int) -> Decoded:
    """Decode latents to pictures.

    Args:
        vae: the autoencoder.
        latents: (B, C, h, w) as the denoiser gives them.
        chunk: how many are decoded at a time.

    Returns:
        The pictures, and which of them are finite. One that is not, as of a seed with which half precision overflows,
        is no reason to end a run: its seed is fixed, and would end it again.
    """
    unscaled = unscale_latents(vae, latents).to(vae.dtype)
    return Decoded.cat([_to_bytes(vae.decode(part, return_dict=False)[0]) for part in unscaled.split(chunk)])


def not_finite(count: int, among: int, dtype: torch.dtype | None = None) -> RunError:
    """Return the error for pictures that an autoencoder, of this type where it is known, has not decoded to numbers."""
    return RunError(
        f"{count} of {among} pictures were decoded to values that are not finite.",
        found="NaN or infinity from an autoencoder" + (f" in {str(dtype).removeprefix('torch.')}" if dtype else ""),
        remedy="in float16 the denoiser or the autoencoder overflows: give --model.dtype bfloat16 or float32; "
        "in float32 the model itself is damaged or diverged",
    )


def scale_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scale (B, C, h, w) latents of the autoencoder for the denoiser."""
    shift, scale = _scale(vae, latents.device)
    return (latents - shift) * scale


def unscale_latents(vae: Any, latents: Tensor) -> Tensor:
    """Invert :func:`scale_latents`."""
    shift, scale = _scale(vae, latents.device)
    return latents / scale + shift


def guidance_scale(name: str, scale: float) -> float:
    """Check a scale of classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    Args:
        name: of the setting, for the error message.
        scale: 1 or more; 1 and 0 mean no guidance, as in diffusers.

    Returns:
        The scale, 1 or more.

    Raises:
        UserError: it is negative, between 0 and 1, above 100, or not a number.
    """
    if scale == 0:
        return 1.0
    check_range(name, scale, 1, _MOST_GUIDANCE)
    return scale


def decodable_size(vae: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Check that an autoencoder decodes to a size.

    Args:
        vae: the autoencoder.
        image_size: height and width in pixels.

    Raises:
        UserError: a side is not a multiple of its downsampling factor.
    """
    unit = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = int(image_size[0]), int(image_size[1])
    if min(height, width) < unit or height % unit or width % unit:
        near = [max(1, round(side / unit)) * unit for side in (height, width)]
        raise UserError(
            f"Images of {height} x {width} pixels cannot be decoded.",
            looked_for=f"height and width that {unit} divides",
            remedy=f"set data.image_size to {near}",
        )
    return height, width


def _to_bytes(decoded: Tensor) -> Decoded:
    finite = torch.isfinite(decoded).flatten(1).all(dim=1)
    kept = torch.where(finite[:, None, None, None], decoded, -1.0)
    return Decoded((kept.float() / 2 + 0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8), finite.cpu())


def _scale(vae: Any, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """Return shift and factor between the autoencoder's latents and the denoiser's."""
    mean, spread = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    factor = vae.config.scaling_factor
    if mean is None or spread is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, factor
    column = torch.tensor([mean, spread], device=device)[:, None, :, None, None]
    return column[0], factor / column[1]
