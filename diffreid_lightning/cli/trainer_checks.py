"""Check trainer numbers that Lightning accepts and that fail later, or never end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from diffreid_lightning.errors import UserError, check_range

#: By setting: the least and the most (None: any finite number). -1 is Lightning's word for no end.
_WHOLE: Mapping[str, tuple[int, int | None]] = {
    "accumulate_grad_batches": (1, None),
    "check_val_every_n_epoch": (1, None),
    "fast_dev_run": (0, None),
    "log_every_n_steps": (0, None),
    "max_epochs": (-1, None),
    "max_steps": (-1, None),
    "min_epochs": (0, None),
    "min_steps": (0, None),
    "num_nodes": (1, 100_000),
    "num_sanity_val_steps": (-1, None),
    "reload_dataloaders_every_n_epochs": (0, None),
}
_SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
#: Callbacks that stand for one thing of a run: two would log to the same names, or save to the same files.
_ONCE = ("RetrievalEvaluator", "RunCheckpoint")
_PER_CORE = 8  # processes on a CPU, with some to spare for trying things out
#: Settings with which nothing is trained where they are 0.
_NEEDED_TO_TRAIN = ("max_epochs", "max_steps", "limit_train_batches")
#: What tells that somebody starts this command on each of several machines.
_CLUSTER = ("MASTER_ADDR", "SLURM_NTASKS", "SLURM_PROCID", "LSB_JOBID", "KUBERNETES_PORT", "OMPI_COMM_WORLD_SIZE")


def check(trainer: Any, *, training: bool = False) -> None:
    """Check the numbers of a trainer before it is built.

    Args:
        trainer: its settings, with ``get`` and as attributes.
        training: it is to train, not to evaluate.

    Raises:
        UserError: one of them is outside of its range, or asks for more processes or machines than there are, or two
            contradict each other, or nothing would be trained, or a callback is there twice.
    """
    for name, (least, most) in _WHOLE.items():
        value = trainer.get(name)
        if isinstance(value, (int, float)):
            check_range(f"trainer.{name}", value, least, most)
    for name in _SHARES:
        value = trainer.get(name)
        if isinstance(value, float):  # a share; whole numbers are batches
            check_range(f"trainer.{name}", value, 0, 1)
        elif value is not None:
            check_range(f"trainer.{name}", value)
    clip = trainer.get("gradient_clip_val")
    if isinstance(clip, (int, float)):
        check_range("trainer.gradient_clip_val", clip)
    every = trainer.get("val_check_interval")
    if isinstance(every, (int, float)):
        check_range("trainer.val_check_interval", every, 0, 1 if isinstance(every, float) else None, above=True)
    _check_callbacks(trainer.get("callbacks"))
    _check_processes(trainer)
    if training and not trainer.get("fast_dev_run"):
        _check_length(trainer)


def _check_callbacks(callbacks: Any) -> None:
    """Refuse a second callback of a kind of which a run has one."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    names = [str(each.class_path).rpartition(".")[2] for each in listed if hasattr(each, "class_path")]
    for name in _ONCE:
        if names.count(name) > 1:
            raise UserError(
                f"{name} is in trainer.callbacks {names.count(name)} times.",
                looked_for="one, whose numbers or files are the run's",
                found=", ".join(names),
                remedy=f"change the arguments of the one in the config instead of adding another ({name} is in the "
                "default config; recipes/rerank shows how)",
            )


def _check_length(trainer: Any) -> None:
    """Refuse a training of no step, and one that would end before the least that is asked for."""
    for name in _NEEDED_TO_TRAIN:
        value = trainer.get(name)
        if isinstance(value, (int, float)) and value == 0:
            counts = "" if name == "limit_train_batches" else ", what a checkpoint has behind it included"
            raise UserError(
                f"trainer.{name} is 0: nothing would be trained.",
                looked_for=f"a number above 0{counts}",
                remedy=f"leave --trainer.{name} out or raise it; to measure weights as they are, use test",
            )
    for kind in ("epochs", "steps"):
        least, most = trainer.get(f"min_{kind}"), trainer.get(f"max_{kind}")
        if isinstance(least, int) and isinstance(most, int) and least > most >= 0:
            raise UserError(
                f"trainer.min_{kind} is {least}, and trainer.max_{kind} ends the training before.",
                looked_for=f"at most {most}, which is trainer.max_{kind}",
                remedy=f"lower --trainer.min_{kind}, or raise --trainer.max_{kind}",
            )


def _check_processes(trainer: Any) -> None:
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes")
    asked = int(devices) if isinstance(devices, str) and devices.lstrip("-").isdecimal() else devices
    cores = os.cpu_count() or 1
    on_cpu = trainer.get("accelerator") == "cpu" or not torch.cuda.is_available()
    if on_cpu and isinstance(asked, int) and asked > _PER_CORE * cores:
        raise UserError(
            f"trainer.devices asks for {asked:,} processes.",
            looked_for=f"at most {_PER_CORE * cores}, {_PER_CORE} for each core of this machine",
            found=f"{cores} cores",
            remedy="lower --trainer.devices",
        )
    if isinstance(nodes, int) and nodes > 1 and not any(name in os.environ for name in _CLUSTER):
        raise UserError(
            f"trainer.num_nodes is {nodes:,}, and nothing says where the other machines are: this one would wait.",
            looked_for="SLURM, torchrun, or MASTER_ADDR and NODE_RANK in the environment",
            remedy="start the command on each machine by one of these, or give --trainer.num_nodes 1",
        )
