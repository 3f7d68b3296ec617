"""Save the resolved config after the first completed batch, record the run's attempts, and summarize its results."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from diffreid_lightning import config_files
from diffreid_lightning.cli import resume_settings, run_folder, start_checkpoint
from diffreid_lightning.cli.config_classes import resolve
from diffreid_lightning.cli.run_description import describe_run
from diffreid_lightning.run_summary import RunSummary, sound_summary
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.tracking import WandbTracker, log_summary, recorded_as, tracking_mode
from diffreid_lightning.training.throughput import Throughput, batch_size
from diffreid_lightning.training.trainer_parts import callbacks_of

_LIGHTNINGS_NAME = "lightning_logs"  # what Lightning's loggers are called where nobody has named them


class RunRecord(SaveConfigCallback):
    """Save the resolved config as ``config.yaml`` in the run folder and as the run's W&B config, and count the attempt.

    This happens once a step has been trained, an evaluation has ended or a batch has been predicted. A command may be
    refused until then, when the checkpoint is restored or the data are first read, and must leave the run it was to
    continue, and the folder of runs, as they were.

    Checkpoints hold the config as well. A training that goes on from one with other settings is told which of them are
    in force from there on, or is refused.

    The results are written to ``summary.json``, at the end of a fit, an evaluation and a prediction.

    Args:
        parser: the subcommand's parser.
        config: the parsed configuration.
        text: what is saved: the configuration as it was given, without this run's folder and id, so that it starts
            another run as well.
        run: the run folder.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        text: str,
        run: run_folder.RunFolder,
        save_to_log_dir: bool,
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=save_to_log_dir)
        self.text = text
        self.run = run
        self._changes: list[config_files.Change] | None = None  # None: not from a checkpoint, or begun already
        self._schedules = 0
        self._began = time.monotonic()  # the first part includes what the data module prepares
        self._seconds: dict[str, float] = {}
        self._metrics: dict[str, dict[str, float]] = {}
        self._earlier: RunSummary | None = None  # of this run, where nothing was left to train
        self._tested_steps: int | None = None  # behind the weights of a checkpoint that is evaluated
        self._throughput = Throughput()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let W&B start at its first use; the trainer has asked every logger for its run by now."""
        if self._seconds:
            self._began = time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.release()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the config in the checkpoint."""
        checkpoint[resume_settings.CONFIG_KEY] = self.text

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse settings that the checkpoint overrules.

        Raises:
            UserError: one of them is not what the checkpoint was trained with.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING
        run = start_checkpoint.run_of_checkpoint(Path(str(trainer.ckpt_path)))
        begun = checkpoint.get(resume_settings.CONFIG_KEY)
        if begun is None and run is not None and (run / run_folder.CONFIG_FILE).is_file():
            begun = (run / run_folder.CONFIG_FILE).read_bytes().decode(errors="replace")
        changes = config_files.changed_settings(str(begun or ""), self.text)
        resume_settings.refuse_start_changes(changes, getattr(pl_module, "start_only", ()), evaluating=not fitting)
        if not fitting:
            self._tested_steps = checkpoint["global_step"]
            return
        if run == self.run.path.resolve():
            resume_settings.refuse_another_root(changes, self.run.path)
        resume_settings.apply_to_callbacks(callbacks_of(trainer), checkpoint.get("callbacks", {}), changes)
        self._changes, self._schedules = changes, len(checkpoint.get("lr_schedulers", ()))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a schedule that the checkpoint lacks, then say which changed settings are in force.

        Raises:
            UserError: the checkpoint lacks a schedule.
        """
        if self._changes is not None:
            resume_settings.refuse_lost_schedule(trainer, self._schedules)
            said = resume_settings.describe_changes(self._changes)
            if said is not None:
                rank_zero_info(said)
            self._changes = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that there was nothing left to train, and summarize the training."""
        if self._changes is not None:
            self._earlier = sound_summary(self.run.path) if trainer.is_global_zero else None
            earlier = {} if self._earlier is None else self._earlier.metrics
            self._metrics = {split: dict(found) for split, found in earlier.items()}
            rank_zero_info(resume_settings.describe_nothing_left(trainer, self._changes))
        self._summarize(trainer, pl_module, "fit")
        log_summary(trainer, self._throughput.measure(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Record a fit that has trained a step, and count its images."""
        self._record(trainer, pl_module)
        self._throughput.count(getattr(pl_module, "count_images", batch_size)(batch))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a ``validate`` command, not a validation within fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._record(trainer, pl_module)
            self._summarize(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a test, or a fit that had nothing left to train, and summarize it."""
        self._record(trainer, pl_module)
        self._summarize(trainer, pl_module, "test")

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Record a prediction that has made something."""
        self._record(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a prediction whose batches had all been done before."""
        self._record(trainer, pl_module)
        self._summarize(trainer, pl_module, "predict")

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.already_saved and trainer.is_global_zero:
            self.save_config(trainer, pl_module, str(trainer.state.fn))
        self.already_saved = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, on rank zero; called once per run."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        is_new = self._changes is None or not (folder / self.config_filename).exists()  # else it trains nothing
        if is_new:
            with replace_file(folder / self.config_filename) as staged:
                staged.write_text(self.text, encoding="utf-8")
        run_folder.note_attempt(self.run)
        for logger in trainer.loggers if is_new else ():
            logger.log_hyperparams(self.config.as_dict())
        self._note_tracking(trainer)

    def _summarize(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        """Write ``summary.json``, with what earlier parts of this command came to."""
        if not trainer.is_global_zero or not Path(trainer.default_root_dir).is_dir():
            return
        self._seconds[part] = time.monotonic() - self._began
        if part == "fit" and self._earlier is not None:
            summary = replace(self._earlier, attempt=self.run.attempt)
        else:
            settings = self.config.as_dict()
            summary = describe_run(trainer, pl_module, settings, self.text, self.run, self._seconds, self._earlier)
        if self._tested_steps is not None:
            summary = replace(summary, steps=self._tested_steps)
        self._metrics.update({split: dict(values) for split, values in summary.metrics.items()})
        replace(summary, metrics=self._metrics).write(Path(trainer.default_root_dir))

    def _note_tracking(self, trainer: Trainer) -> None:
        """Save the id under which W&B records the run; it may differ from the requested one."""
        found = next((recorded_as(logger) for logger in trainer.loggers if isinstance(logger, WandbLogger)), {})
        noted = replace(
            self.run,
            run_id=found.get("id", self.run.run_id),
            project=found.get("project", self.run.project),
            entity=found.get("entity", self.run.entity),
        )
        if self.run.attempt > 1 and noted.run_id != self.run.run_id:
            rank_zero_warn(
                f"W&B records this attempt as {noted.run_id}; the earlier ones are in its run {self.run.run_id}. "
                "Unset WANDB_SWEEP_ID and leave the logger's id out to continue that one."
            )
        if noted != self.run:
            self.run = noted
            run_folder.note_attempt(noted)


class RunProgress(RichProgressBar):
    """Progress bar without the loggers' version."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics shown with the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


def place_logger(class_path: str, arguments: Namespace, run: run_folder.RunFolder) -> None:
    """Put a logger's files into the run folder, but for what it was given; a W&B logger also gets the run's id.

    What the environment asks of W&B counts for a new run. One that is continued stays the W&B run that it is.

    Raises:
        UserError: ``WANDB_MODE`` is not a mode of W&B.
    """
    kind = resolve(class_path, (WandbLogger,))
    if kind is not None and issubclass(kind, WandbLogger):
        tracking_mode()  # what the logger refuses would drown in the words of the parser that builds it
        if arguments.get("save_dir", "elsewhere") in (None, "."):
            arguments.save_dir = os.environ.get("WANDB_DIR") or str(run.path)
        is_new = run.attempt == 1
        chosen = os.environ.get("WANDB_RUN_ID")
        if arguments.get("id", "elsewhere") is None and arguments.get("version") is None and not (is_new and chosen):
            arguments.id = run.run_id or None
            if chosen and chosen != run.run_id:
                rank_zero_info(f"WANDB_RUN_ID={chosen} is not used: this run is continued as {run.run_id}.")
        if arguments.get("project", "elsewhere") is None and not is_new:
            arguments.project = run.project
        if run.entity is not None and "entity" in arguments and arguments.entity is None:
            arguments.entity = run.entity
    elif arguments.get("save_dir", "elsewhere") in (None, "."):
        # A continued run keeps what its earlier attempts logged.
        placed = {"save_dir": str(run.path), "name": run_folder.METRICS, "version": f"attempt-{run.attempt}"}
        for name, value in placed.items():
            if name in arguments and arguments[name] in (None, ".", _LIGHTNINGS_NAME):
                arguments[name] = value
