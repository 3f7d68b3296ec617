"""Distill a personalized diffusion model into a student that draws an image in four to eight evaluations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from diffreid_lightning.diffusion.checkpoints import locate_pipeline, weights_hash
from diffreid_lightning.diffusion.denoising_loop import compose, guidance_scale
from diffreid_lightning.diffusion.lora_files import merge_lora
from diffreid_lightning.diffusion.lr_schedule import Schedule, optimize_by_step
from diffreid_lightning.diffusion.pipeline_io import PROVENANCE, Pipeline, replace_model_folder
from diffreid_lightning.diffusion.prompt_encoding import Conditioning
from diffreid_lightning.distillation.consistency_mapping import (
    consistency_output,
    ddim_step,
    pseudo_huber,
    solver_grid,
)
from diffreid_lightning.errors import RunError, UserError, check_image_size, check_range, shorten
from diffreid_lightning.manifest.provenance import read_provenance
from diffreid_lightning.paths import user_path
from diffreid_lightning.personalization.base import DenoiserTraining
from diffreid_lightning.personalization.checkpoint import (
    STUDENT_FOLDER,
    hash_personalized,
    load_personalized,
    read_note,
)
from diffreid_lightning.personalization.datamodule import PersonalizationBatch
from diffreid_lightning.personalization.fine_tuning import trained_weights
from diffreid_lightning.personalization.lora import LoRA
from diffreid_lightning.training.moving_average import update_average, warmed_decay


class ConsistencyDistillation(DenoiserTraining):
    """Distill a personalized model into a LoRA that draws in few steps (LCM-LoRA, Luo et al., arXiv 2311.05556).

    Latent consistency distillation (Luo et al., arXiv 2310.04378, algorithm 1): the teacher, with guidance, solves its
    probability-flow ODE over one of ``solver_steps`` steps; the student learns to map both ends of the step to the same
    clean latents. At the noisy end the student is trained, at the other its moving average is the target. The scale of
    guidance is learned and no input of the student: it is sampled without guidance, one evaluation per step.

    Images and prompts are those of personalization; rows of prior images count as all others. The identities' names and
    the personalized weights are the teacher's and frozen, and the student's LoRA is added to them.

    Args:
        model: the teacher: a personalized model's folder.
        base: its base model: a folder, a hub id or ``tiny-sd``; None takes the path noted in training.
        lora: the student's LoRA, of the denoiser alone; None is of rank 64 on all layers.
        image_size: height and width in pixels; on the command line it is set as ``data.image_size``.
        guidance: lowest and highest scale of the teacher's guidance, 1 or more, drawn for each image of a batch.
        solver_steps: steps that the process is divided into; ``original_inference_steps`` of ``LCMScheduler``.
        target_decay: share of the moving average that an optimizer step keeps, 0 to 1.
        huber: difference of latents at which the loss turns from quadratic to absolute.
        optimizer: builds the optimizer from the parameters.
        schedule: learning-rate schedule after the warm-up.
        warmup_steps: steps of linear warm-up from zero.

    Raises:
        UserError: the model is not personalized, or a student itself; or arguments are out of their ranges.
    """

    exported = "distilled"  #: folder of the result, in the run folder
    start_only: ClassVar[tuple[str, ...]] = ("lora",)
    _learned = "student"
    _origin_key = "teacher"
    _other_origin = "The checkpoint was distilled from another model."

    def __init__(
        self,
        model: str,
        base: str | None = None,
        lora: LoRA | None = None,
        image_size: tuple[int, int] = (256, 128),
        guidance: tuple[float, float] = (4.0, 4.0),
        solver_steps: int = 50,
        target_decay: float = 0.95,
        huber: float = 1e-3,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0),
        schedule: Schedule = "constant_with_warmup",
        warmup_steps: int = 50,
    ) -> None:
        super().__init__()
        check_image_size("model.image_size", image_size)
        check_range("model.target_decay", target_decay, 0, 1, below=True)
        check_range("model.huber", huber, 1e-9, 1)
        check_range("model.warmup_steps", warmup_steps)
        low, high = (guidance_scale("model.guidance", scale) for scale in guidance)
        if low > high:
            raise UserError(f"model.guidance is {list(guidance)}.", looked_for="the lowest scale, then the highest")
        self.lora = lora or LoRA(rank=64, layers="all")
        if self.lora.text_encoder:
            raise UserError("A student's LoRA adapts the denoiser alone.", remedy="leave out model.lora.text_encoder")
        self.guidance = (low, high)
        self.target_decay = target_decay
        self.huber = huber
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self._folder = user_path(model).resolve()
        teacher = load_personalized(model, base)
        if teacher.student:
            raise UserError(
                f"{model} is a few-step student already.",
                looked_for="a personalized model, as PersonalizationExport writes it",
                remedy="give the model that it was distilled from",
            )
        self._known = {identity.key: identity.name for identity in teacher.identities}
        self._hold(merge_lora(teacher.pipeline), model, teacher.content_hash, image_size)
        self._grid = solver_grid(self._check_process(solver_steps), solver_steps)
        self.target = nn.ParameterDict()
        self._steps_seen = 0

    # Set-up.

    def _add_trained(self, pipeline: Pipeline) -> None:
        """Add the student's LoRA, and start its average."""
        self.lora.prepare(pipeline)
        self.target = nn.ParameterDict(
            {name: nn.Parameter(weight.detach().clone(), False) for name, weight in trained_weights(pipeline).items()}
        )

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule."""
        return optimize_by_step(self, self.trained.values(), self.optimizer, self.schedule, self.warmup_steps)

    def on_train_start(self) -> None:
        """Count optimizer steps from where the run is."""
        super().on_train_start()
        self._steps_seen = self.trainer.global_step

    # One step.

    def training_step(self, batch: PersonalizationBatch, batch_idx: int) -> Tensor:
        """Map both ends of a step of the teacher's solver to the same latents."""
        latents = self._latents(batch)
        conditioning = self._held.cached_prompts([*batch.prompts, *batch.prior_prompts])
        # 1. Draw a step of the solver for each row, and latents where it starts.
        steps = torch.randint(len(self._grid.start), (len(latents),), device=self.device)
        start, end = (timesteps.to(self.device)[steps] for timesteps in self._grid)
        noisy = self.scheduler.add_noise(latents, torch.randn_like(latents), start)
        with torch.no_grad(), self._without_dropout():
            # 2. Let the teacher take the step, with guidance (arXiv 2310.04378, eq. 15).
            earlier = ddim_step(self.scheduler, self.teach(noisy, start, conditioning), noisy, start, end)
            # 3. Map its end by the student's average.
            average = {name.removeprefix("unet/").replace("/", "."): weight for name, weight in self.target.items()}
            mapped = self(earlier, end, conditioning, average).float()
            target = consistency_output(self.scheduler, mapped, earlier, end)
        # 4. Map its start by the student, and compare (algorithm 1).
        guess = consistency_output(self.scheduler, self(noisy, start, conditioning).float(), noisy, start)
        loss = pseudo_huber(guess, target, self.huber).mean()
        self._loss_sum.watch(self, loss, batch_idx, self._rate)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(latents))
        self.log("train/learning_rate", self._rate, batch_size=len(latents))
        return loss

    def teach(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict by the teacher, with classifier-free guidance of a drawn scale.

        Args:
            noisy: (B, C, h, w) latents with noise.
            timesteps: (B,) int64.
            conditioning: B encoded prompts.

        Returns:
            (B, C, h, w) float32, of the scheduler's prediction type.
        """
        low, high = self.guidance
        scales = low + (high - low) * torch.rand(1, len(noisy), 1, 1, 1, device=noisy.device)
        unprompted = self._held.cached_prompts.unconditional(len(noisy))
        self.unet.disable_adapters()
        try:
            both = Conditioning.cat([unprompted, conditioning])
            predictions = self(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both).float().chunk(2)
        finally:
            self.unet.enable_adapters()
        return compose(predictions, (True, True), scales, rescale=0.0)

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Take the dropout of the student's LoRA out: the target is its average and no part of it drawn at random."""
        layers = [each for each in self.unet.modules() if isinstance(each, nn.Dropout) and each.p and each.training]
        for layer in layers:
            layer.eval()
        try:
            yield
        finally:
            for layer in layers:
                layer.train()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the student's average after each optimizer step."""
        step = self.trainer.global_step
        if step != self._steps_seen:
            update_average(self.target, self.trained, warmed_decay(step - 1, self.target_decay))
            self._steps_seen = step

    # Results.

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the student: the personalized model's files and its LoRA, whole or not at all.

        Args:
            folder: output folder; its content is replaced.
            provenance: added to the teacher's in ``provenance.json``, as ``distillation``.

        Raises:
            RunError: the disk is full, or the teacher's folder is gone or has another content.
        """
        is_gone = not self._folder.is_dir()
        if is_gone or hash_personalized(self._folder) != self._origin:
            raise RunError(
                "The student cannot be written: the personalized model "
                f"{'is gone from' if is_gone else 'has changed in'} {self._folder}",
                looked_for="the folder that the training began with; its files are part of the student's",
                remedy="put it back, then go on from the last checkpoint: --ckpt_path last",
            )
        settings = {"guidance": list(self.guidance), "solver_steps": len(self._grid.start)}
        noted = read_provenance(self._folder / PROVENANCE) | {"distillation": {**provenance, **settings}}
        with replace_model_folder(folder, noted) as target:
            shutil.copytree(self._folder, target, dirs_exist_ok=True)
            self.lora.save_in(self.pipeline(), target / STUDENT_FOLDER)

    def _check_process(self, solver_steps: int) -> int:
        """Check that the process can be divided and solved; return its number of timesteps."""
        timesteps = len(self.scheduler.alphas_cumprod)
        check_range("model.solver_steps", solver_steps, 1, timesteps)
        if self.scheduler.config.prediction_type == "epsilon" and self.scheduler.alphas_cumprod[-1] == 0:
            raise UserError(
                "A model that predicts noise cannot be distilled where the last timestep is pure noise.",
                found="prediction_type epsilon with rescale_betas_zero_snr",
                remedy="restore scheduler/scheduler_config.json of the base model as it was published",
            )
        return timesteps

    def _check_data(self) -> None:
        data = self._data
        wanted = read_note(self._folder)["base"]["weights"]
        if weights_hash(locate_pipeline(data.model)) != wanted:
            raise UserError(
                "The data's latents are of another base model than the teacher's.",
                looked_for=f"weights with the hash {wanted[:16]}…",
                found=f"data.model {data.model}",
                remedy="give the base model of the personalized one as data.model",
            )
        unknown = [each.name for each in data.identities if self._known.get(each.key) != each.name]
        if unknown:
            raise UserError(
                f"The model was not personalized for {len(unknown)} of {len(data.identities)} identities.",
                looked_for=f"tokens for {shorten(unknown, 4)}",
                found=f"{len(self._known)} identities in {self._folder}",
                remedy="choose others with data.source and data.identities, or personalize a model with these",
            )
