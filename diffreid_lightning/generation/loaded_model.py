"""Load the model that generates: a personalized one, a few-step student, or a plain checkpoint; with further LoRAs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from diffreid_lightning.diffusion.checkpoints import INDEX, locate_pipeline, weights_hash
from diffreid_lightning.diffusion.lora_files import locate_lora, stack_loras
from diffreid_lightning.diffusion.pipeline_io import PROVENANCE, load_pipeline
from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.distillation.consistency_mapping import solver_grid
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.provenance import read_provenance
from diffreid_lightning.paths import user_path
from diffreid_lightning.personalization.checkpoint import PersonalizedModel, is_personalized, load_personalized


def load_model(model: str, base: str | None, adapters: Sequence[str]) -> PersonalizedModel:
    """Load a model in float32, with all LoRAs merged; a plain checkpoint is one without identities.

    Args:
        model: a personalized model's folder, or a plain checkpoint.
        base: base model of a personalized one; None takes the path noted in training.
        adapters: LoRAs that are added: files, folders or hub ids.

    Raises:
        UserError: one of them is missing or damaged, or they do not fit each other.
    """
    files = [locate_lora(adapter) for adapter in adapters]
    if is_personalized(model):
        loaded = load_personalized(model, base)
    else:
        folder = user_path(model)
        inside = [] if (folder / INDEX).is_file() else sorted(filter(is_personalized, folder.glob("*/")))
        if inside:  # the path is a run folder
            raise UserError(f"There is no diffusion model at {model}", remedy=f"did you mean {inside[0]}?")
        pipeline, content_hash = load_pipeline(model), weights_hash(locate_pipeline(model))
        loaded = PersonalizedModel(pipeline, [], PromptTemplate(), content_hash, student=False)
    return dataclasses.replace(loaded, content_hash=stack_loras(loaded.pipeline, files, loaded.content_hash))


def check_student(model: str, scheduler: Any, calls: int, evaluations: int) -> None:
    """Check that a few-step student is sampled as it was distilled.

    Args:
        model: the student's folder.
        scheduler: a diffusers scheduler with its timesteps set.
        calls: steps that are taken.
        evaluations: of the denoiser per image.

    Raises:
        UserError: another sampler; or guidance, which the student has learned and would get twice; or timesteps that it
            was not trained at.
    """
    name = type(scheduler).__name__
    if name != "LCMScheduler" or evaluations != calls:
        raise UserError(
            f"{model} is a few-step student: one evaluation of the denoiser per step, without guidance.",
            looked_for="model.scheduler LCMScheduler, model.guidance 1, and a strategy without a guidance of its own: "
            "WordsOnly, NoDiversity or SDEdit",
            found=f"{name}, {evaluations} evaluations in {calls} steps",
            remedy="add --config recipes/few_step behind --config stages/generate",
        )
    distillation = read_provenance(user_path(model) / PROVENANCE).get("distillation")
    solved = distillation.get("solver_steps") if isinstance(distillation, Mapping) else None
    total = scheduler.config.num_train_timesteps
    if not isinstance(solved, int) or not 1 <= solved <= total:
        return
    timesteps = scheduler.timesteps.tolist()
    if not set(timesteps) <= set(solver_grid(total, solved).start.tolist()):
        raise UserError(
            f"{model} would be sampled at timesteps that it was not distilled at.",
            looked_for=f"timesteps among those of model.solver_steps {solved}",
            found=f"{timesteps}, of original_inference_steps {scheduler.config.original_inference_steps}",
            remedy=f"set --model.scheduler_options.original_inference_steps {solved}, as recipes/few_step does",
        )
