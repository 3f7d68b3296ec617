"""Sample images by a checkpoint's noise schedule with any diffusers scheduler, chosen by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from diffreid_lightning.diffusion.noise_schedule import (
    describe_process,
    process_arguments,
    process_kind,
    samples_process,
)
from diffreid_lightning.errors import UserError, did_you_mean, first_line, nearest, shorten

_REFUSALS = (ValueError, TypeError, NotImplementedError, AssertionError, ImportError, IndexError, ArithmeticError)
_STEP = ("model_output", "timestep", "sample")


class Sampler:
    """Diffusers scheduler with a number of steps, reused for every batch.

    Args:
        scheduler: of the checkpoint.
        name: scheduler class: one of diffusers' (``UniPCMultistepScheduler``) or an importable path; None keeps the
            checkpoint's own.
        options: arguments of that class that differ from the checkpoint's configuration.
        steps: number of steps from noise to image.

    Raises:
        UserError: there is no such class or argument, the class cannot sample this checkpoint, its noise cannot be
            seeded, it goes from image to noise, it refuses the arguments or the number of steps, or its latents are
            not finite.
    """

    def __init__(self, scheduler: Any, name: str | None, options: Mapping[str, Any], steps: int) -> None:
        found = type(scheduler) if name is None else _find(name)
        _check(found, scheduler, options)
        self.steps = steps
        self._takes_generator = "generator" in inspect.signature(found.step).parameters  # type: ignore[attr-defined]
        arguments = inspect.signature(found).parameters
        process = process_arguments(scheduler.config, arguments)
        if "clip_sample" in arguments and "clip_sample" not in scheduler.config:
            process["clip_sample"] = False  # of pixels; clipped latents lose what lies outside -1 to 1
        try:
            self.scheduler: Any = found.from_config(  # type: ignore[attr-defined]
                scheduler.config, **{**process, **options}
            )
            self.scheduler.set_timesteps(steps)
            if hasattr(self.scheduler, "noise_sampler"):
                raise UserError(
                    f"{found.__name__} draws noise that the images' seeds do not control.",
                    remedy="choose another one, such as DPMSolverMultistepScheduler or EulerAncestralDiscreteScheduler",
                )
            self._try_out()
        except UserError:
            raise
        except _REFUSALS as error:
            raise UserError(
                f"{found.__name__} does not accept its settings.",
                looked_for=f"{steps} steps" + (f" with {dict(options)}" if options else ""),
                found=first_line(error),
                remedy="change model.steps, model.scheduler_options or model.scheduler",
            ) from error

    def _try_out(self) -> None:
        """Take all steps with an all-zero prediction: some classes refuse a setting only there, or divide by zero.

        It takes milliseconds for most, and seconds for 1000 steps of LMSDiscreteScheduler.
        """
        self.scheduler.set_timesteps(max(self.steps, 2))
        if self.scheduler.timesteps[0] < self.scheduler.timesteps[-1]:
            raise UserError(
                f"{type(self.scheduler).__name__} goes from the image to the noise, and draws none.",
                remedy="choose another one, such as DPMSolverMultistepScheduler or DDIMScheduler",
            )
        generator = torch.Generator().manual_seed(0)
        timesteps = self.begin()
        latents = self.start(torch.randn((1, 4, 8, 8), generator=generator), timesteps)
        for timestep in timesteps:
            predicted = torch.zeros_like(self.scale_input(latents, timestep))
            latents = self.step(predicted, timestep, latents, [generator])
        if not latents.isfinite().all():
            raise ValueError("its latents are not finite")
        self.scheduler.set_timesteps(self.steps)

    @property
    def cache_key(self) -> dict[str, Any]:
        """Settings that determine the images, as plain JSON values."""
        kept = {name: value for name, value in self.scheduler.config.items() if not name.startswith("_")}
        return {"class": type(self.scheduler).__name__, "steps": self.steps, **kept}

    def begin(self, skipped: int = 0) -> Tensor:
        """Start a batch.

        Args:
            skipped: steps that are left out at the noisy end.

        Returns:
            (calls,) timesteps of the denoiser's calls, noisiest first. They stay on the CPU, so that no step waits for
            a GPU.
        """
        self.scheduler.set_timesteps(self.steps, device="cpu")
        first = skipped * self.scheduler.order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        timesteps: Tensor = self.scheduler.timesteps[first:]
        return timesteps

    def count_calls(self, skipped: int = 0) -> int:
        """Count the denoiser's calls in a batch: those of :meth:`begin`, without starting one."""
        return len(self.scheduler.timesteps) - skipped * self.scheduler.order

    def start(self, noise: Tensor, timesteps: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the initial latents.

        Args:
            noise: (B, C, h, w) standard normal.
            timesteps: from :meth:`begin`.
            image: (B, C, h, w) latents that the noise is added to; None starts from pure noise.
        """
        if image is None:
            return noise * self.scheduler.init_noise_sigma
        started: Tensor = self.scheduler.add_noise(image, noise, timesteps[:1].repeat(len(noise)))
        return started

    def scale_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Scale latents for the denoiser at a timestep."""
        scaled: Tensor = self.scheduler.scale_model_input(latents, timestep)
        return scaled

    def step(
        self, predicted: Tensor, timestep: Tensor, latents: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Take one step towards the image; stochastic samplers draw from the images' own generators.

        Args:
            predicted: (B, C, h, w) by the denoiser.
            timestep: a scalar.
            latents: (B, C, h, w).
            generators: one per image, on the CPU.
        """
        drawing = {"generator": list(generators)} if self._takes_generator else {}
        stepped: Tensor = self.scheduler.step(predicted, timestep, latents, **drawing, return_dict=False)[0]
        return stepped


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Draw each image's noise from its own generator: (B, C, h, w) float32 on the CPU.

    It does not depend on device or batch.

    Args:
        generators: one per image, on the CPU.
        shape: (C, h, w).
    """
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _find(name: str) -> type:
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else diffusers, last, None)
    except (ImportError, TypeError, ValueError):  # no such module; a name that begins with dots
        found = None
    if isinstance(found, type) and issubclass(found, SchedulerMixin):
        return found
    # diffusers replaces a class with missing packages by a dummy.
    lacking = [package for package in getattr(found, "_backends", ()) if importlib.util.find_spec(package) is None]
    if lacking:
        raise UserError(
            f"The scheduler {last} needs a package that is not installed.",
            looked_for=", ".join(lacking),
            remedy=f"pip install {' '.join(lacking)}; or choose another, such as DPMSolverMultistepScheduler",
        )
    known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
    guess = nearest(last, known) or nearest(f"{last}Scheduler", known)
    raise UserError(
        f"There is no scheduler {name!r}.",
        looked_for="a scheduler of diffusers by its name, or an importable path (package.module.Class)",
        remedy=f"did you mean {guess!r}?" if guess else "DPMSolverMultistepScheduler needs few steps",
    )


def _check(found: type, own: Any, options: Mapping[str, Any]) -> None:
    accepted = inspect.signature(found).parameters
    for option in options:
        if option not in accepted:
            raise UserError(
                f"{found.__name__} has no argument {option!r} (model.scheduler_options).",
                found=f"its arguments are {shorten(accepted, 30)}",
                remedy=did_you_mean(option, accepted, "take one of the arguments above"),
            )
    step = tuple(inspect.signature(getattr(found, "step", object)).parameters)[1:4]  # some are base classes
    kind = process_kind(own.config)
    if step != _STEP or not (samples_process(kind, accepted) or (kind == "continuous" and found is type(own))):
        raise _cannot_sample(found, own)
    if own.config.get("trained_betas") is not None and "trained_betas" not in accepted:
        raise _cannot_sample(found, own)
    if own.config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in accepted:
        raise UserError(
            f"{found.__name__} cannot sample a checkpoint whose last timestep is pure noise.",
            looked_for="a scheduler with the argument rescale_betas_zero_snr",
            remedy="choose DPMSolverMultistepScheduler, UniPCMultistepScheduler or DDIMScheduler",
        )


def _cannot_sample(found: type, own: Any) -> UserError:
    kind = process_kind(own.config)
    remedies = {
        "betas": "choose DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDIMScheduler or the like",
        "edm": "choose EDMDPMSolverMultistepScheduler or the checkpoint's own: --model.scheduler null",
        "continuous": "choose the checkpoint's own: --model.scheduler null",
        "other": "choose an SD 1.x, SD 2.x or SDXL checkpoint whose scheduler has betas",
    }
    return UserError(
        f"{found.__name__} cannot sample {'a Stable Diffusion' if kind == 'betas' else 'this'} checkpoint.",
        looked_for="a scheduler for the noise that the checkpoint was trained with",
        found=f"the checkpoint has {describe_process(own.config)}",
        remedy=remedies[kind],
    )
