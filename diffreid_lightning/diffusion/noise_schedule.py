"""Read a checkpoint's noise schedule from its scheduler, and pass it on to samplers and training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DDPMScheduler

from diffreid_lightning.errors import UserError

Kind = Literal["betas", "edm", "continuous", "other"]

#: scheduler arguments that describe the process, by kind; the others describe its sampling
_ARGUMENTS: dict[Kind, tuple[str, ...]] = {
    "betas": (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
    ),
    "edm": ("num_train_timesteps", "prediction_type", "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho"),
}
_REQUIRED: dict[Kind, tuple[str, ...]] = {
    "betas": ("beta_start", "beta_end", "beta_schedule", "prediction_type"),
    "edm": ("sigma_data", "sigma_min", "sigma_max", "prediction_type"),
}
_TARGETS = ("epsilon", "v_prediction", "sample")
_WORDS: dict[Kind, str] = {
    "edm": "EDM preconditioning (Karras et al., arXiv 2206.00364), as Playground 2.5 and CosXL have",
    "continuous": "continuous timesteps",
    "other": "a process without betas, or flow matching",
}


def process_kind(config: Mapping[str, Any]) -> Kind:
    """Return the kind of noise process in a scheduler's configuration.

    Args:
        config: of a diffusers scheduler, with the defaults of its class.

    Returns:
        ``betas`` for discrete variance-preserving noise (Ho et al., arXiv 2006.11239); ``edm`` for preconditioned
        networks (Karras et al., arXiv 2206.00364); ``continuous`` for timesteps that are logarithms of sigma;
        ``other`` for flow matching and the rest.
    """
    if all(name in config for name in _REQUIRED["edm"]):
        return "edm"
    flows = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flows or not all(name in config for name in _REQUIRED["betas"]):
        return "other"
    return "continuous" if config.get("timestep_type", "discrete") == "continuous" else "betas"


def process_arguments(config: Mapping[str, Any], accepted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's noise process as arguments for another scheduler class.

    ``from_config`` of diffusers replaces values at the first class's defaults by the second class's, which differ.

    Args:
        config: of the checkpoint's scheduler.
        accepted: parameters of the other class, by name.
    """
    names = _ARGUMENTS.get(process_kind(config), ())
    return {name: config[name] for name in names if name in config and name in accepted}


def samples_process(kind: Kind, accepted: Mapping[str, Any]) -> bool:
    """Tell whether a scheduler class with these parameters supports a process of this kind."""
    return kind in _REQUIRED and all(name in accepted for name in _REQUIRED[kind])


def describe_process(config: Mapping[str, Any]) -> str:
    """Name a checkpoint's scheduler and the kind of its noise process for an error message."""
    kind = process_kind(config)
    return f"{config.get('_class_name', 'its scheduler')}: {_WORDS.get(kind, 'betas')}"


def training_scheduler(scheduler: Any, model: str) -> DDPMScheduler:
    """Build the scheduler that adds the noise of training, with the noise process of a checkpoint.

    Args:
        scheduler: of the checkpoint.
        model: name of the checkpoint, for error messages.

    Raises:
        UserError: training does not support the process, or its numbers contradict each other.
    """
    config = scheduler.config
    remedy = "choose a base model whose scheduler has betas, such as Stable Diffusion 1.5, 2.1 or SDXL base"
    if process_kind(config) != "betas":
        raise UserError(
            f"The noise of {model} cannot be trained.",
            looked_for="a scheduler with beta_start, beta_end, beta_schedule, and discrete timesteps",
            found=describe_process(config),
            remedy=f"{remedy}; this one still generates, by its own sampler: --model.scheduler null"
            if process_kind(config) == "edm"
            else remedy,
        )
    if config["prediction_type"] not in _TARGETS:
        raise UserError(
            f"The prediction of {model} cannot be trained.",
            looked_for=f"prediction_type {', '.join(_TARGETS)}",
            found=str(config["prediction_type"]),
            remedy=remedy,
        )
    given = process_arguments(config, dict.fromkeys(_ARGUMENTS["betas"]))
    try:
        made = DDPMScheduler.from_config(config, **given)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _unusable(model, str(error)) from error
    count, steps = len(made.alphas_cumprod), made.config.num_train_timesteps
    if count != steps:
        raise _unusable(model, f"{count} trained_betas for num_train_timesteps {steps}")
    if not bool(((made.alphas_cumprod >= 0) & (made.alphas_cumprod < 1)).all()):
        raise _unusable(model, f"betas from {float(made.betas.min())} to {float(made.betas.max())}")
    return made


def _unusable(model: str, found: str) -> UserError:
    return UserError(
        f"The noise schedule of {model} cannot be used.",
        looked_for="betas between 0 and 1 for each of num_train_timesteps, by a beta_schedule of DDPMScheduler",
        found=found,
        remedy="restore scheduler/scheduler_config.json as the checkpoint was published",
    )
