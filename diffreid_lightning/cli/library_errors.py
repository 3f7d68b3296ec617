"""Turn errors of the parser, Lightning and torch into this package's four-part errors.

``lightning_cli`` calls it when parsing, building or running has failed, and for checks of what it has built. Errors of
no known cause are left to :mod:`~diffreid_lightning.cli.uncaught_errors`.
"""

from __future__ import annotations

import errno
import traceback
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.cli import config_errors, uncaught_errors, value_errors
from diffreid_lightning.cli.lightning_parser import TOP_LEVEL, has_setting
from diffreid_lightning.errors import DiffReIDError, UserError, nearest, shorten
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.training.trainer_parts import callbacks_of

_NO_SUCH_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_OF_MONITORS = ("lr-", "DeviceStatsMonitor", "batch_", "gpu_id")  # what Lightning's own monitors log
_UNLOADABLE = ("Error(s) in loading state_dict", "PytorchStreamReader", "loaded state dict")


def own_error(error: BaseException) -> DiffReIDError | None:
    """Find this package's error inside what the parser wraps around it when a constructor refuses its arguments."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiffReIDError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def worded_parsing(error: ArgumentError, subcommand: str, written: Mapping[str, Any]) -> DiffReIDError:
    """Explain why a configuration could not be parsed.

    Args:
        error: the parser's.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        written: the configuration as it was given, overrides applied.
    """
    top_level = {key: kind for key, kind in TOP_LEVEL.items() if has_setting(subcommand, key)}
    return (
        own_error(error)
        or config_errors.explain(written, [*top_level, "trainer", "model", "data"])
        or value_errors.explain(written, top_level)
        or config_errors.refused(subcommand, error)
    )


def _raised_in(error: BaseException) -> str:
    """Name the file of the code that raised an error; "" where it has no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).as_posix() if frames else ""


def worded_building(error: Exception) -> UserError | None:
    """Explain why data, model or trainer could not be built; None if no setting is the cause."""
    text = str(error)
    if isinstance(error, OSError) and error.errno not in (None, *_NO_SUCH_PATH):
        return None
    if uncaught_errors.is_out_of_memory(error) or isinstance(error, Warning):
        return None
    if isinstance(error, ImportError):
        return _not_installed(error)
    if isinstance(error, (ValueError, OSError)):  # how constructors refuse
        return UserError("The configuration cannot be built.", found=" ".join(text.split()))
    return UserError(
        "The configuration cannot be built.",
        found=uncaught_errors.told(error),
        remedy=f"correct what it speaks of; the traceback is in {uncaught_errors.save_traceback(error, refused=True)}",
    )


def _not_installed(error: ImportError) -> UserError:
    return UserError(
        "A setting wants a package that is not installed.",
        found=" ".join(str(error).split()),
        remedy="install it, or leave that setting out",
    )


def refuse_unsupported(trainer: Trainer) -> None:
    """Refuse strategies that train in processes started by Python: what they end with does not come back.

    Raises:
        UserError: the strategy is ``ddp_spawn``, ``ddp_fork`` or ``ddp_notebook``.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(
            "trainer.strategy starts its processes by Python's multiprocessing.",
            looked_for="one that starts the command once a device",
            found=f"{type(trainer.strategy).__name__}, started by {launcher._start_method}",
            remedy="use --trainer.strategy ddp; in a notebook, run the command with '!' before it, or on one device",
        )


def refuse_unknown_monitors(trainer: Trainer, model: LightningModule, no_validation: str | None) -> None:
    """Refuse callbacks that monitor a metric that is never logged, before training starts.

    Nothing is said where a class of the user's may log numbers of its own.

    Args:
        trainer: the trainer, before it runs.
        model: the module to be trained.
        no_validation: why no numbers of validations come, None where they do.

    Raises:
        UserError: a callback's ``monitor`` is not among what is logged.
    """
    callbacks: list[Any] = callbacks_of(trainer)
    known = {type(part).__module__.partition(".")[0] for part in (model, *callbacks)} <= {
        "diffreid_lightning",
        "lightning",
    }
    trained = getattr(model, "metric_names", None)
    if not known or trained is None or getattr(trainer, "fast_dev_run", False):
        return
    evaluator = next((each for each in callbacks if isinstance(each, RetrievalEvaluator)), None)
    validated = [] if evaluator is None else list(evaluator.metric_names)
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor in trained or monitor.startswith(_OF_MONITORS):
            continue
        if monitor in validated and (no_validation is None or isinstance(callback, RunCheckpoint)):
            continue
        if isinstance(callback, RunCheckpoint) and evaluator is None:  # it keeps the last, and no best
            continue
        guess = nearest(monitor, [*trained, *validated])
        raise UserError(
            f"{type(callback).__name__} waits for {monitor!r}, which is never logged.",
            looked_for=f"one of {shorten([*validated, *trained], 20)}",
            found=no_validation if monitor in validated else None,
            remedy=f"did you mean {guess!r}?" if guess and monitor not in validated else "monitor one of the others",
        )


def worded_running(error: Exception) -> UserError | None:
    """Explain an error of Lightning or torch that the configuration causes; None for any other."""
    text = str(error)
    if isinstance(error, (OSError, Warning)) or uncaught_errors.is_out_of_memory(error):
        return None
    if isinstance(error, ImportError):
        return _not_installed(error)
    if isinstance(error, MisconfigurationException):
        return UserError("Lightning cannot run this configuration.", found=" ".join(text.split()))
    if "is not in bounds, numpy accepts" in text:
        return UserError(
            "The seed cannot be used.", looked_for="seed_everything: a whole number from 0 to 4294967295", found=text
        )
    if "does not allow for gradient clipping" in text:
        return UserError(
            "A fused optimizer cannot clip gradients in mixed precision.",
            found="fused: true beside trainer.gradient_clip_val",
            remedy="drop one of the two, or use --trainer.precision 32 or bf16-true",
        )
    if text.startswith(_UNLOADABLE) or isinstance(error, (UnpicklingError, EOFError)):
        return UserError(
            "The checkpoint does not fit this network.",
            found=shorten(text.split("\n")[1:4] or [text]).replace("\t", ""),
            remedy="give the checkpoint of a run of this module, and --model.backbone and the rest of the model as "
            "that run was started (its config.yaml)",
        )
    where = _raised_in(error)
    if "/torch/optim/" in where:
        part = "scheduler" if where.endswith("lr_scheduler.py") else "optimizer"
        return UserError(
            f"The {part} refuses its arguments.",
            found=uncaught_errors.told(error) if len(text) > 300 else text,
            remedy=f"correct --model.{part}, or take another class; its arguments: --model.{part}.help CLASS",
        )
    if "/lightning/pytorch/" in where or "/lightning/fabric/" in where:
        return UserError(
            "Lightning cannot run this configuration.",
            found=uncaught_errors.told(error),
            remedy="change the setting that it speaks of; the traceback is in "
            + uncaught_errors.save_traceback(error, refused=True),
        )
    return None
