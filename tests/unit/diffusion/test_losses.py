"""Targets and weights against the papers' formulas, written out anew."""

from __future__ import annotations

import math

import pytest
import torch

from diffreid_lightning.diffusion.losses import (
    denoising_errors,
    noise_latents,
    prior_preserving_loss,
    timestep_weights,
)
from diffreid_lightning.errors import UserError
from tools.tiny_sd.architectures import build_scheduler


def alphas_bar(steps: int = 1000, start: float = 0.0001, end: float = 0.02) -> list[float]:
    """Products of 1 - beta for betas on a straight line (Ho et al., section 4)."""
    product, products = 1.0, []
    for step in range(steps):
        product *= 1 - (start + (end - start) * step / (steps - 1))
        products.append(product)
    return products


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noisy_latents_and_targets_follow_the_papers(kind: str) -> None:
    scheduler = build_scheduler({"prediction_type": kind})
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator).double()
    timesteps = torch.tensor([3, 500, 990])
    noisy, target = noise_latents(scheduler, latents, noise, timesteps)
    for row, step in enumerate(timesteps.tolist()):
        a, s = math.sqrt(alphas_bar()[step]), math.sqrt(1 - alphas_bar()[step])
        torch.testing.assert_close(noisy[row], a * latents[row] + s * noise[row], rtol=1e-4, atol=1e-5)
        wanted = {"epsilon": noise[row], "sample": latents[row], "v_prediction": a * noise[row] - s * latents[row]}
        torch.testing.assert_close(target[row], wanted[kind], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_weigh_all_predictions_as_the_same_error_of_the_image(kind: str) -> None:
    scheduler = build_scheduler({"prediction_type": kind})
    timesteps = torch.tensor([0, 10, 200, 500, 990])
    weights = timestep_weights(scheduler, timesteps, 5.0)
    for weight, step in zip(weights.tolist(), timesteps.tolist(), strict=True):
        snr = alphas_bar()[step] / (1 - alphas_bar()[step])
        # Hang et al., eq. 8: the error of the clean image weighs min(SNR, gamma). An error e of that image is an error
        # e * sqrt(SNR) of the noise and e * sqrt(SNR + 1) of the velocity.
        per_unit = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[kind]
        assert weight == pytest.approx(min(snr, 5.0) / per_unit, rel=1e-3)


def test_without_gamma_all_timesteps_weigh_alike() -> None:
    assert timestep_weights(build_scheduler({}), torch.tensor([1, 900]), None).tolist() == [1, 1]


def test_zero_terminal_snr_stays_finite() -> None:
    scheduler = build_scheduler({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    weights = timestep_weights(scheduler, torch.tensor([999]), 5.0)
    assert weights.isfinite().all()
    noisy, target = noise_latents(scheduler, torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0), torch.tensor([999]))
    torch.testing.assert_close(noisy, torch.full_like(noisy, 3.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(target, torch.full_like(noisy, -1.0), atol=1e-3, rtol=0)


def test_the_errors_are_weighted_means_by_hand() -> None:
    prediction = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]])
    target = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 0.0]]]])
    # Mean squares 2.5 and 2; weights 2 and 0.5.
    assert denoising_errors(prediction, target, torch.tensor([2.0, 0.5])).tolist() == pytest.approx([5.0, 1.0])


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(UserError, match="prediction_type"):
        build_scheduler({"prediction_typ": "epsilon"})


def test_the_prior_loss_by_hand() -> None:
    errors = torch.tensor([1.0, 3.0, 5.0, 0.5, 1.5])
    # Three images of identities with the mean error 3, two prior images with the mean error 1.
    loss, identity, prior = prior_preserving_loss(errors, instances=3, prior_weight=0.5)
    assert (float(loss), float(identity), float(prior)) == (3.5, 3.0, 1.0)
    loss, identity, prior = prior_preserving_loss(errors, instances=5, prior_weight=0.5)
    assert (float(loss), float(identity), float(prior)) == pytest.approx((2.2, 2.2, 0.0))
