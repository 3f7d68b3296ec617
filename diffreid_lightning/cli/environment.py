"""Check and complete the environment of a command: launcher variables, waiting threads, output streams, warnings."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import warnings

from diffreid_lightning.errors import UserError

#: Whole numbers that launchers set, and that Lightning and torch read without looking.
_INTEGER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_PORT", "SLURM_PROCID",
    "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "PL_GLOBAL_SEED",
)  # fmt: skip
#: Variables that set the wait policy of OpenMP's threads: the standard's, GNU's, Intel's and LLVM's.
WAIT_POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Spins before a thread sleeps: most waits of an idle machine end within them, and few cores are taken from others.
_SPIN_COUNT = "1000"


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep soon where they wait for each other, unless the environment says how they wait.

    By default the GNU library's spin for long, and take the cores of whatever else runs on the machine: two threads on
    two cores of which one is busy are several times slower. Results do not depend on it, as they would on another
    number of threads. It has to be called before torch is imported; child processes inherit it.
    """
    if not any(name in os.environ for name in WAIT_POLICY):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def disable_onnx_telemetry() -> None:
    """Keep ONNX Runtime from recording and sending how it is used, unless the environment says otherwise.

    Where it is installed, diffusers imports it, and releases from 1.32 on then write to the user's cache folder and
    report to its maker. It has to be called before that import; child processes inherit it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def check_environment() -> None:
    """Check the variables that a launcher sets, and the one that matplotlib reads as it is imported.

    Raises:
        UserError: a launcher's is not a whole number, or matplotlib has no such backend.
    """
    if os.environ.get("MPLBACKEND"):
        try:
            import matplotlib  # noqa: F401
        except ValueError as error:
            raise UserError(
                "The environment variable MPLBACKEND names no backend of matplotlib.",
                found=str(error),
                remedy="unset MPLBACKEND: pictures are only drawn into files here",
            ) from error
    for name in _INTEGER_VARIABLES:
        value = os.environ.get(name)
        if value is not None and not value.strip().isdecimal():
            raise UserError(
                f"The environment variable {name} is not a whole number.",
                looked_for="what torchrun, SLURM or another launcher sets, or no such variable",
                found=repr(value),
                remedy=f"unset {name}, or start with the launcher that sets it",
            )


def escape_unencodable_output() -> None:
    """Escape characters that the output encoding lacks, such as those of file names."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def stdout_is_closed() -> bool:
    """Return true if the reader of stdout is gone, as after ``| head -1``."""
    if flush_streams() is not None:
        return True
    if not isinstance(sys.stdout, io.TextIOWrapper) or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def flush_streams() -> OSError | None:
    """Flush the output streams; if one is broken, redirect it to the null device and return the error.

    Python would print an error of its own at exit otherwise.
    """
    refused = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            refused = refused or error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return refused


def silence_advice() -> None:
    """Silence advice of Lightning that does not apply here, and W&B's messages."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Couldn't infer the batch indices.*")  # a plan's batches have numbers
    warnings.filterwarnings("ignore", message=".*Total length of `(DataLoader|list)` across ranks is zero.*")  # no val
    # Evaluation gathers features once and counts a row that was handed out twice as one.
    warnings.filterwarnings("ignore", message=".*DistributedSampler.*replicates some samples.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use .self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*WeightAveraging doesn't support sharding.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter is intended.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings(
        "ignore", message=".*The number of training batches .* is smaller than the logging interval.*"
    )
    os.environ.setdefault("WANDB_SILENT", "true")


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
