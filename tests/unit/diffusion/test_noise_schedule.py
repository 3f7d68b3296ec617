"""The noise of a checkpoint is that of training and sampling, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from diffreid_lightning.diffusion.diffusion_sampler import Sampler
from diffreid_lightning.diffusion.noise_schedule import training_scheduler
from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.diversity import NoDiversity
from diffreid_lightning.personalization.module import Personalization
from tests.fixtures.checkpoint_layouts import with_scheduler
from tests.unit.generation.test_module import PROMPTS, SEEDS, build, draw, stock_images, stock_pipeline

PLAYGROUND = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "solver_order": 2}


@pytest.mark.parametrize("name", ["LCMScheduler", "HeunDiscreteScheduler", "TCDScheduler", "DDIMScheduler"])
def test_what_a_checkpoint_leaves_to_its_own_class_stays_so(name: str) -> None:
    """Defaults differ between classes, and ``from_config`` of diffusers takes the second one's."""
    own = getattr(diffusers, name)()
    wanted = own.alphas_cumprod
    assert torch.equal(training_scheduler(own, "a model").alphas_cumprod, wanted)
    assert torch.equal(Sampler(own, "DPMSolverMultistepScheduler", {}, 4).scheduler.alphas_cumprod, wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.01] * 50, "num_train_timesteps": 50},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_kinds_of_prediction_and_schedule_are_honored(settings: dict[str, Any]) -> None:
    own = diffusers.DDIMScheduler(**settings)
    made = training_scheduler(own, "a model")
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    assert made.config.prediction_type == own.config.prediction_type


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (diffusers.EDMDPMSolverMultistepScheduler(), "EDM"),
        (diffusers.EDMEulerScheduler(), "EDM"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "flow"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), "continuous"),
        (diffusers.ScoreSdeVeScheduler(), "without betas"),
        (diffusers.DDIMScheduler(prediction_type="x0"), "x0"),
        (diffusers.HeunDiscreteScheduler(beta_schedule="exp"), "exp"),
        (diffusers.DDIMScheduler(trained_betas=[0.01] * 10), "10 trained_betas"),
        (diffusers.DDIMScheduler(beta_end=7.0), "betas from"),
    ],
)
def test_what_cannot_be_trained_is_refused(scheduler: Any, told: str) -> None:
    with pytest.raises(UserError) as refused:
        training_scheduler(scheduler, "a model")
    assert told in str(refused.value)
    assert refused.value.remedy


def test_a_preconditioned_checkpoint_is_not_trained_and_samples_as_stock_does(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoints["sdxl"], tmp_path / "model")
    with_scheduler(folder, diffusers.EDMDPMSolverMultistepScheduler(**PLAYGROUND))
    with pytest.raises(UserError, match="cannot be trained") as refused:
        Personalization(str(folder))
    assert "--model.scheduler null" in str(refused.value)
    with pytest.raises(UserError, match="EDM") as refused:
        build(folder, NoDiversity(), scheduler="DPMSolverMultistepScheduler")
    assert "EDMDPMSolverMultistepScheduler or the checkpoint's own" in str(refused.value)
    stock = stock_images(stock_pipeline(folder), PROMPTS, SEEDS)
    images = draw(build(folder, NoDiversity(), scheduler=None), [(prompt,) for prompt in PROMPTS], SEEDS)
    assert int((images.int() - stock.int()).abs().max()) <= 1
    own = diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_max=120.0)
    assert Sampler(own, "EDMDPMSolverMultistepScheduler", {}, 4).scheduler.config.sigma_max == 120.0


def test_a_sampler_that_does_not_know_the_prediction_is_refused_before_the_run() -> None:
    own = diffusers.DDIMScheduler(prediction_type="sample")
    with pytest.raises(UserError, match="does not accept its settings"):
        Sampler(own, "PNDMScheduler", {"skip_prk_steps": True}, 4)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_latents_are_not_clipped_where_the_checkpoint_says_nothing_of_it(name: str) -> None:
    own = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    assert Sampler(own, name, {}, 4).scheduler.config.clip_sample is False
    assert Sampler(own, name, {"clip_sample": True}, 4).scheduler.config.clip_sample is True
