"""Consistency functions against diffusers' schedulers, and where the solution is known: normal data."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from torch import Tensor

from diffreid_lightning.distillation.consistency_mapping import (
    consistency_output,
    ddim_step,
    pseudo_huber,
    solver_grid,
)

KINDS = ("epsilon", "v_prediction", "sample")
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, SPREAD = 0.7, 0.4  # of the known data


def scheduler(kind: str, zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(**NOISE, prediction_type=kind, rescale_betas_zero_snr=zero_snr)


def levels(process: DDPMScheduler, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    squared = process.alphas_cumprod[timesteps][:, None, None, None]
    return squared**0.5, (1 - squared) ** 0.5


def ideal_prediction(process: DDPMScheduler, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """What the best denoiser of N(MEAN, SPREAD^2) predicts: the posterior mean, in the process's terms."""
    alpha, sigma = levels(process, timesteps)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    origin = MEAN + gain * (noisy - alpha * MEAN)
    noise = (noisy - alpha * origin) / sigma
    return {"epsilon": noise, "v_prediction": alpha * noise - sigma * origin, "sample": origin}[
        process.config.prediction_type
    ]


def solution(process: DDPMScheduler, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The end at timestep 0 of the probability-flow ODE: it keeps the standardized latents."""
    alpha, sigma = levels(process, timesteps)
    first_alpha, first_sigma = levels(process, torch.zeros(1, dtype=torch.int64))
    standard = (noisy - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2) ** 0.5
    return first_alpha * MEAN + (first_alpha**2 * SPREAD**2 + first_sigma**2) ** 0.5 * standard


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_lcm_scheduler_denoises_to(kind: str) -> None:
    sampler = LCMScheduler(**NOISE, prediction_type=kind, original_inference_steps=20)
    sampler.set_timesteps(5)
    grid = solver_grid(1000, 20)
    assert set(sampler.timesteps.tolist()) <= set(grid.start.tolist())
    torch.manual_seed(0)
    for timestep in sampler.timesteps:
        noisy, prediction = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 3, 2)
        denoised = sampler.step(prediction, timestep, noisy, return_dict=False)[1]
        ours = consistency_output(scheduler(kind), prediction, noisy, timestep.expand(2))
        torch.testing.assert_close(ours, denoised, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_ddim(kind: str, zero_snr: bool) -> None:
    if kind == "epsilon" and zero_snr:
        pytest.skip("pure noise says nothing about the image")
    sampler = DDIMScheduler(
        **NOISE, prediction_type=kind, rescale_betas_zero_snr=zero_snr, set_alpha_to_one=False, clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip
    sampler.set_timesteps(20)
    starts, ends = solver_grid(1000, 20)
    assert sampler.timesteps.tolist() == starts.flip(0).tolist()
    torch.manual_seed(0)
    for start, end in zip(starts, ends, strict=True):
        noisy, prediction = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 3, 2)
        theirs = sampler.step(prediction, int(start), noisy, return_dict=False)[0]
        ours = ddim_step(scheduler(kind, zero_snr), prediction, noisy, start.expand(2), end.expand(2))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_at_the_end_of_the_process_it_is_the_identity() -> None:
    noisy, ends = torch.randn(3, 4, 3, 2), solver_grid(1000, 50).end[:1].expand(3)
    assert ends.tolist() == [0, 0, 0]
    for kind in KINDS:
        assert torch.equal(consistency_output(scheduler(kind), torch.randn_like(noisy), noisy, ends), noisy)
    one, zero, places = torch.ones(3, 1, 1, 1), torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 999])
    skip = consistency_output(scheduler("sample"), zero, one, places)
    out = consistency_output(scheduler("sample"), one, zero, places)
    assert skip.flatten().tolist() == pytest.approx([1, 0.25 / 100.25, 0], abs=1e-6)
    assert out.flatten().tolist() == pytest.approx([0, 10 / 100.25**0.5, 1], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_ends_where_the_ode_does(kind: str) -> None:
    process = scheduler(kind)
    torch.manual_seed(0)
    begun = torch.randn(16, 4, 3, 2)
    known = solution(process, begun, torch.full((16,), 999))
    errors = []
    for steps in (10, 100, 1000):
        latents = begun
        starts, ends = solver_grid(1000, steps)
        for start, end in zip(starts.flip(0), ends.flip(0), strict=True):
            at = start.expand(16)
            latents = ddim_step(process, ideal_prediction(process, latents, at), latents, at, end.expand(16))
        errors.append(float((latents - known).abs().max()))
    assert errors[0] > errors[1] > 5 * errors[2], "a solver of first order"
    assert errors[2] < 1e-2, "of values around 0.7, with a deviation of 0.4"


def test_the_known_solution_has_next_to_no_loss_and_a_denoiser_has() -> None:
    """A network that predicts the end of the ODE is consistent along its steps; the teacher's posterior mean is not."""
    process = scheduler("sample")
    grid = solver_grid(1000, 1000)
    torch.manual_seed(0)
    steps = torch.randint(1, 1000, (512,))
    start, end = grid.start[steps], grid.end[steps]
    noisy = process.add_noise(MEAN + SPREAD * torch.randn(512, 4, 3, 2), torch.randn(512, 4, 3, 2), start)
    earlier = ddim_step(process, ideal_prediction(process, noisy, start), noisy, start, end)

    def loss(network: object) -> float:
        ends = [
            consistency_output(process, network(process, latents, at), latents, at)  # type: ignore[operator]
            for latents, at in ((noisy, start), (earlier, end))
        ]
        return float(pseudo_huber(ends[0], ends[1], 1e-3).mean())

    assert loss(solution) < 1e-4
    assert loss(ideal_prediction) > 4 * loss(solution)


def test_the_loss_is_the_hypotenuse_less_its_leg() -> None:
    distance = pseudo_huber(torch.tensor([[3.0, 0.0], [0.0, -8.0]]), torch.tensor([[0.0, 0.0], [0.0, 7.0]]), 4.0)
    expected = [(5 - 4) / 2, ((8 + 7) ** 2 + 16) ** 0.5 / 2 - 2]
    assert distance.tolist() == pytest.approx(expected)
