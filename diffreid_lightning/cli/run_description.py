"""Describe a run from its trainer, module and data module, for the summary in its folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from diffreid_lightning.backbones.weight_provenance import initialization_record
from diffreid_lightning.cli import run_folder, start_checkpoint
from diffreid_lightning.cli.versions import installed_versions
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.run_summary import METRIC_NAMES, RunSummary, sound_summary
from diffreid_lightning.training.throughput import GIB, peak_memory
from diffreid_lightning.training.trainer_parts import callbacks_of, datamodule_of


def describe_run(
    trainer: Trainer,
    module: LightningModule,
    settings: Mapping[str, Any],
    text: str,
    run: run_folder.RunFolder,
    seconds: Mapping[str, float],
    earlier: RunSummary | None = None,
) -> RunSummary:
    """Build the summary of a run that has come to a result.

    Args:
        trainer: after fit, an evaluation or a prediction.
        module: what was trained, evaluated or used.
        settings: the command's settings at the top: ``seed_everything``, ``test_with``.
        text: the run's configuration as it is saved.
        run: its folder.
        seconds: by part of the command.
        earlier: of a fit that had nothing left to train: what describes its training.
    """
    command = run.path.name.partition("-")[0]
    data = datamodule_of(trainer)
    summary = RunSummary(
        command=command,
        run_id=run.run_id,
        attempt=run.attempt,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        seed=_seed(settings.get("seed_everything")),
        selection=_selection(trainer, settings, command),
        model=_describe_model(module),
        data=_describe_data(data, command),
        initialization=initialization_record(getattr(module, "init_from", None)),
        uses_cameras=any(bool(getattr(part, "uses_cameras", False)) for part in (module, data)),
        reranked=any(isinstance(each, RetrievalEvaluator) and each.metric.rerank for each in callbacks_of(trainer)),
        metrics=_metrics(trainer),
        steps=trainer.global_step,
        epochs=trainer.current_epoch,
        seconds={part: round(value, 3) for part, value in seconds.items()},
        device=_describe_device(trainer),
        versions=installed_versions(),
    )
    if earlier is not None:
        # Its steps are those of the checkpoint; the earlier summary may tell of other weights, the best.
        own = _describe_training(summary, earlier)
        return replace(own, config_sha256=earlier.config_sha256, seed=earlier.seed)
    trained = _training_of_checkpoint(trainer, command)
    return summary if trained is None else replace(_describe_training(summary, trained), steps=trained.steps)


def _describe_training(summary: RunSummary, trained: RunSummary) -> RunSummary:
    """Return a summary with the data, initialization and epochs of a training."""
    return replace(
        summary,
        data={**summary.data, "train": trained.data.get("train")},
        initialization=trained.initialization,
        uses_cameras=trained.uses_cameras,
        epochs=trained.epochs,
    )


def _training_of_checkpoint(trainer: Trainer, command: str) -> RunSummary | None:
    """Return the summary of the training whose checkpoint is evaluated, if it lies where it was written."""
    if command == "fit" or not trainer.ckpt_path:
        return None
    folder = start_checkpoint.run_of_checkpoint(Path(str(trainer.ckpt_path)))
    return None if folder is None else sound_summary(folder)


def _seed(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _selection(trainer: Trainer, settings: Mapping[str, Any], command: str) -> str | None:
    if command == "fit":
        chosen = str(settings.get("test_with", "last"))
        return None if chosen == "none" else chosen
    return Path(str(trainer.ckpt_path)).stem if trainer.ckpt_path else None


def _describe_model(module: LightningModule) -> dict[str, Any]:
    backbone = getattr(module, "backbone", None)
    name = getattr(backbone, "name", None)
    found: dict[str, Any] = {"class": type(module).__name__}
    if isinstance(name, str):
        assert backbone is not None
        found |= {"backbone": name, "parameters": sum(each.numel() for each in backbone.parameters())}
    return found


def _describe_data(data: Any, command: str) -> dict[str, Any]:
    """Describe the data; training rows are described where they were trained on, and read by nothing else."""
    size = getattr(data, "image_size", None)
    found = {
        "image_size": None if size is None else list(size),
        "train": getattr(data, "provenance", None) if command == "fit" else None,
        "test": getattr(data, "test_provenance", None) if command != "validate" else None,
    }
    return {"class": type(data).__name__, **{name: value for name, value in found.items() if value}}


def _metrics(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Return what was logged last, by split."""
    found: dict[str, dict[str, float]] = {}
    for name, value in trainer.callback_metrics.items():
        split, slash, metric = name.partition("/")
        number = float(value)
        if slash and math.isfinite(number):
            found.setdefault(split, {})[METRIC_NAMES.get(metric, metric)] = number
    return found


def _describe_device(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    peak = peak_memory(device)
    return {
        "name": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / GIB, 3) if on_gpu else None,
        "peak_memory_gib": None if peak is None else round(peak / GIB, 3),
    }
