"""From what a library raises when a configuration cannot be run to an error in the house's form."""

from __future__ import annotations

import traceback
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from diffreid_lightning.cli import hints, values
from diffreid_lightning.cli.parser import TOP_LEVEL, has_setting
from diffreid_lightning.errors import DiffReIDError, UserError, shorten

_UNLOADABLE = ("Error(s) in loading state_dict", "PytorchStreamReader", "loaded state dict")


def own_error(error: BaseException) -> DiffReIDError | None:
    """Find this package's error inside what the parser wraps around it when a constructor refuses its arguments."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiffReIDError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def worded_parsing(
    error: ArgumentError, subcommand: str, written: Mapping[str, Any], overrides: Sequence[str]
) -> DiffReIDError:
    """Word why a configuration could not be parsed.

    Args:
        error: the parser's.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        written: the configuration as it was given, overrides applied.
        overrides: the command line without its ``--config``.
    """
    top_level = {key: kind for key, kind in TOP_LEVEL.items() if has_setting(subcommand, key)}
    return (
        own_error(error)
        or hints.explain(written, [*top_level, "trainer", "model", "data"])
        or hints.explain_words(overrides)
        or values.explain(written, top_level)
        or hints.refused(subcommand, error)
    )


def _raised_in(error: BaseException) -> str:
    """Name the file of the code that raised an error; "" where it has no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).as_posix() if frames else ""


def worded_running(error: Exception) -> UserError | None:
    """Word an error of Lightning or torch that the configuration is to blame for; None for any other."""
    text = str(error)
    if isinstance(error, MisconfigurationException):
        return UserError("Lightning cannot run this configuration.", found=" ".join(text.split()))
    if "is not in bounds, numpy accepts" in text:
        return UserError(
            "The seed cannot be used.", looked_for="seed_everything: a whole number from 0 to 4294967295", found=text
        )
    if "does not allow for gradient clipping" in text:
        return UserError(
            "A fused optimiser cannot clip gradients in mixed precision.",
            found="fused: true beside trainer.gradient_clip_val",
            remedy="drop one of the two, or use --trainer.precision 32 or bf16-true",
        )
    if text.startswith(_UNLOADABLE) or isinstance(error, (UnpicklingError, EOFError)):
        return UserError(
            "The checkpoint does not fit this network.",
            found=shorten(text.split("\n")[1:4] or [text]).replace("\t", ""),
            remedy="give --model.backbone and the rest of the model as the run was started (its config.yaml)",
        )
    where = _raised_in(error)
    if "/torch/optim/" in where and isinstance(error, (ValueError, ArithmeticError)):
        part = "scheduler" if where.endswith("lr_scheduler.py") else "optimizer"
        return UserError(
            f"The {part} refuses its arguments.",
            found=text,
            remedy=f"correct --model.{part}; its arguments: --model.{part}.help CLASS",
        )
    return None
