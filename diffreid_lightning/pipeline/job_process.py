"""Start the command of a job, of which several may run: forked on a CPU, a new interpreter beside a GPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from diffreid_lightning.cores import environment_with_threads
from diffreid_lightning.pipeline.forked_command import ForkedCommand, serves_present_code
from diffreid_lightning.pipeline.graph import PREFIX
from diffreid_lightning.pipeline.stage_process import end_with_parent
from diffreid_lightning.storage.locks import FileLock

GLANCE = 0.05  #: seconds between two looks at running commands
_GRACE = 15.0  # seconds that commands have to end in, once they are told to
DEVICES = "CUDA_VISIBLE_DEVICES"  #: variable that names the GPUs of a process
#: variables by which launchers number their processes: a job is not one of them
_LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|NODE_RANK|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    r"|SLURM_(NTASKS(_PER_NODE)?|NPROCS|PROCID|LOCALID|NODEID|STEP_\w+)"
)
#: of the trial that a sweep's agent has started this process for; one cell is the trial, what it needs is not
_TRIAL = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")


class JobProcess(Protocol):
    """A running command."""

    def poll(self) -> int | None:
        """Return the exit code, negative where a signal ended it; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""


def start_process(
    words: Sequence[str], environment: Mapping[str, str], output: Path | int, lock: FileLock, *, forked: bool
) -> JobProcess:
    """Start ``python -m diffreid_lightning WORDS``; it ends when this process does, and holds the lock until then.

    Args:
        words: the command and its arguments.
        environment: all of its environment.
        output: the file its output is appended to, or the descriptor of a terminal.
        lock: of the job.
        forked: fork it from a server that has imported everything, unless the package has changed since.
    """
    with open(output, "ab", closefd=isinstance(output, Path)) as file:
        if forked and serves_present_code():
            return ForkedCommand(words, environment, file.fileno(), lock.handle)
        return subprocess.Popen(
            [sys.executable, "-m", "diffreid_lightning", *words],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=() if lock.handle is None else (lock.handle,),
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )


def end_processes(processes: Sequence[JobProcess], told: bool = False) -> None:
    """End commands: SIGTERM, then SIGKILL for those that have not ended in time.

    Args:
        processes: the commands.
        told: a terminal has interrupted them already; a second signal would end them in disorder.
    """
    for each in processes:
        if not told:
            each.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while any(each.poll() is None for each in processes) and time.monotonic() < deadline:
        time.sleep(GLANCE)
    for each in processes:
        each.send_signal(signal.SIGKILL)


def describe_ending(code: int) -> str:
    """Describe the exit code of a command that failed."""
    return f"ended with exit code {code}" if code > 0 else f"ended on signal {-code}"


def can_fork() -> bool:
    """Return true if commands can be forked from a server: on Linux, where no GPU is visible."""
    return sys.platform == "linux" and not visible_devices()


def visible_devices() -> list[str]:
    """Return the GPUs of this process as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch  # not above: most of this command does without

    count = torch.cuda.device_count()  # asks the driver's library and starts nothing
    named = [name for name in os.environ.get(DEVICES, "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]


def choose_device(asked: Any, devices: Sequence[str], used: Sequence[str | None]) -> str | None:
    """Return the device with the fewest running jobs; None leaves all: there is none, or the command asks for several.

    Args:
        asked: the command's ``trainer.devices``, None where it says nothing.
        devices: all devices.
        used: device of each running job.
    """
    wants_one = asked in (None, "auto", 1, "1") or (isinstance(asked, list) and len(asked) == 1)
    return min(devices, key=used.count) if devices and wants_one else None


def environment_of(
    name: str | None, group: str, kind: str, *, parallel: int, device: str | None, is_trial: bool
) -> dict[str, str]:
    """Return the environment of a job's command.

    Args:
        name: of its W&B run; None for a command that starts several.
        group: W&B group.
        kind: W&B job type.
        parallel: how many jobs run at once; they divide the threads, where the environment does not say.
        device: the GPU it gets; None leaves all.
        is_trial: it is what a W&B sweep's agent has started this process for.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    if not is_trial or "WANDB_SWEEP_ID" not in kept:
        kept = {key: value for key, value in kept.items() if key not in _TRIAL}
    kept = {key: value for key, value in kept.items() if not _LAUNCHERS.fullmatch(key)}
    kept.pop("FORCE_COLOR", None)  # a progress bar would come as thousands of lines
    kept |= {"WANDB_RUN_GROUP": group, "WANDB_JOB_TYPE": kind}
    if name is not None:
        kept["WANDB_NAME"] = name
    kept = environment_with_threads(kept, parallel)
    return kept if device is None else {**kept, DEVICES: device}
