"""Find and run the command; print errors as messages. Exit codes are attributes of the classes in ``errors.py``."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

from diffreid_lightning.cli import run_folder, signals, uncaught_errors
from diffreid_lightning.cli.environment import (
    check_environment,
    disable_onnx_telemetry,
    escape_unencodable_output,
    flush_streams,
    let_threads_sleep,
    stdout_is_closed,
)
from diffreid_lightning.errors import DiffReIDError, RunError, UserError, did_you_mean

SUBCOMMANDS = ("fit", "validate", "test", "predict")
PLAIN_COMMANDS = (
    "select", "data", "convert", "pipeline", "benchmark", "report", "embed", "search", "thresholds", "export", "sweep",
    "push", "pull", "doctor", "completion",
)  # fmt: skip
_MODULES = {"pipeline": "run_pipeline"}  # of plain commands, where it has another name
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell has it

HELP = """usage: python -m diffreid_lightning COMMAND [options]

  fit        train a Re-ID backbone, then report mAP and Rank-1 (no options: the embedded MiniPerson); with --config
             stages/personalize, stages/score, stages/pretrain or stages/transfer, a stage of the chain
  validate   evaluate a checkpoint on the identities held out of train
  test       evaluate a checkpoint on query and gallery
  predict    write the features of query and gallery; with --config stages/caption, stages/generate or
             stages/score_generated, a stage of the chain
  pipeline   run the whole chain: caption, personalize, generate, score, select, pre-train, transfer
  benchmark  run a grid of initializations, settings, datasets and seeds, and compare them in one table
  sweep FILE         search settings by a W&B sweep file, through Optuna and without an account
  select     choose among scored images and write Diff-Person
  report RUN ...     show runs, chains and benchmarks on one HTML page, side by side
  convert FILE       another project's backbone (LUPerson, CION, torchreid, fast-reid) as a timm folder
  embed PATH         write the features of any images by a trained network
  search QUERY GALLERY   find the most similar images; a table and a picture
  thresholds RUN     decision thresholds for wanted error rates, on people held out of the training
  export RUN         write a trained network as ONNX
  push PATH REPO     upload a backbone, a personalized model or Diff-Person to the Hugging Face hub, private by default
  pull REPO          fetch one of them from there
  data check PATH    count a dataset's identities, images and cameras beside the published ones
  data sheet PATH    draw a dataset's people, some images each
  data export PATH   write a dataset as a Market-1501 folder, hard links where the disk allows
  data browse PATH   write a folder of pages to look through a dataset's images, sorted and filtered
  doctor             check versions, devices, memory, disk, W&B and the embedded files
  completion SHELL   print a script that completes commands and options in bash, zsh or tcsh

  python -m diffreid_lightning fit --config recipes/bot_market1501 --data.train /data/market1501     your own data
  python -m diffreid_lightning COMMAND --help                        a command's options; every setting: fit --help all
  python -m diffreid_lightning fit --model.help SupervisedReID       a class's; also --data.help ReIDDataModule
  python -m diffreid_lightning --version                             the versions that a bug report needs
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the words after ``python -m diffreid_lightning``; None takes them from the command line.

    Returns:
        The exit code: 0, 2 for a mistake in the arguments or the data, 1 for a run that failed, 130 for one that was
        interrupted (SIGINT), 143 for one that was terminated (SIGTERM), 129 for one whose terminal was closed (SIGHUP)
        and 141 for one whose reader has gone.
    """
    words = list(sys.argv[1:] if args is None else args)
    escape_unencodable_output()
    let_threads_sleep()
    disable_onnx_telemetry()
    with signals.noticed() as arrived, uncaught_errors.threads_worded():
        try:
            code = _dispatch(words)
        except BaseException as error:
            if arrived.exit_code is not None:
                signals.ignore()
                code = _report(_interruption(), arrived.exit_code)
            else:
                code = _worded(error)
        finally:
            run_folder.close_run()
    refused = flush_streams()
    if isinstance(refused, BrokenPipeError):
        return _CLOSED_PIPE
    return code if refused is None else _worded(refused)


def _worded(error: BaseException) -> int:
    """Report the error that ended a command, and return its exit code."""
    if isinstance(error, SystemExit):
        return _exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        return _report(_interruption(), 130)
    if isinstance(error, DiffReIDError):
        return _report(_from_worker(error), error.exit_code)
    if isinstance(error, BrokenPipeError) and stdout_is_closed():
        return _CLOSED_PIPE
    if not isinstance(error, Exception):
        raise error
    worded = _worded_system(error) or uncaught_errors.unforeseen(error)
    return _report(worded, worded.exit_code)


def _exit_code(stop: SystemExit) -> int:
    """Return the code of --help and --print_config, of a trainer that was interrupted, or of a closed pipe."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return _report(_interruption(), 130)
    if isinstance(stop.__context__, BrokenPipeError):  # rich's
        return _CLOSED_PIPE
    if type(stop).__name__ == "SIGTERMException":  # Lightning's, which is not imported for the light commands
        return _report(_interruption(), 143)
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _worded_system(error: Exception) -> DiffReIDError | None:
    """Explain an error of the system (file, disk, memory, loader process); None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FORBIDDEN:
        remedy = "check its owner and permissions, or name a place that can be written"
        return UserError("A file cannot be used.", found=str(error), remedy=remedy)
    if number in _MISPLACED:
        remedy = (
            "a folder is wanted where a file is, or a file where a folder is, or the name is too long: give another"
        )
        return UserError("A path cannot be used.", found=str(error), remedy=remedy)
    if isinstance(error, OSError) and number in _DISK_ERRORS:
        return _disk_error(error)
    if isinstance(error, OSError) and number in (errno.EMFILE, errno.ENFILE):
        return RunError(
            "There are not enough file descriptors.",
            found=str(error),
            remedy="raise the limit (ulimit -n 4096), or use fewer loader processes: --data.num_workers 0",
        )
    if uncaught_errors.is_out_of_memory(error):
        return _memory_error(error)
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return RunError(
            "A loader process was ended from outside.",
            found=str(error).splitlines()[0],
            remedy="often memory or shared memory (/dev/shm) ran out: use --data.num_workers 0 or fewer; a fit goes on "
            "with --ckpt_path last",
        )
    if isinstance(error, Warning):
        return UserError(
            "A warning was turned into an error.",
            found=uncaught_errors.told(error),
            remedy="unset PYTHONWARNINGS and leave python's -W error out: libraries warn of what does no harm",
        )
    return None


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        from diffreid_lightning.cli.versions import describe_versions

        print(describe_versions())
        return 0
    if words[0] in ("select", "thresholds", "report", "sweep", "benchmark", *SUBCOMMANDS):
        check_environment()
    if words[0] in PLAIN_COMMANDS:
        module = importlib.import_module(f"diffreid_lightning.cli.commands.{_MODULES.get(words[0], words[0])}")
        code: int = getattr(module, f"{words[0]}_command")(words[1:])
        return code
    if words[0] not in SUBCOMMANDS:
        commands = (*SUBCOMMANDS, *PLAIN_COMMANDS)
        raise UserError(
            f"There is no command {words[0]!r}.",
            found=f"the commands are {', '.join(commands)}",
            remedy=did_you_mean(words[0], commands, "see python -m diffreid_lightning --help"),
        )
    if words[1:] in (["--help"], ["-h"]):
        from diffreid_lightning.cli.short_help import write_short_help

        print(write_short_help(words[0]))
        return 0
    # Import late: torch and Lightning take seconds to import, and --help should not.
    from diffreid_lightning.cli.lightning_imports import lightning_cli

    lightning_cli.run_command(words[0], ["--help"] if words[1:] in (["--help", "all"], ["-h", "all"]) else words[1:])
    return 0


def _interruption() -> RunError:
    return RunError("Interrupted.", remedy="continue with the same command; a fit goes on with --ckpt_path last")


def _from_worker(error: DiffReIDError) -> DiffReIDError:
    """Restore an error that came through a DataLoader worker: keep the message, drop the traceback."""
    text = str(error)
    if uncaught_errors.WORKER_TRACEBACK not in text:
        return error
    name = f"{type(error).__module__}.{type(error).__name__}: "
    return type(error)(text.rpartition(name)[2].strip())


def _disk_error(error: OSError) -> RunError:
    return RunError(
        "The disk refused to take a file.",
        looked_for=f"room to write {error.filename}" if error.filename else None,
        found=error.strerror or str(error),
        remedy="free some space; everything written before is intact: continue with the same command; a fit goes on "
        "with --ckpt_path last",
    )


def _memory_error(error: Exception) -> RunError:
    return RunError(
        "The device ran out of memory." if "CUDA" in str(error) else "The memory ran out.",
        found=uncaught_errors.told(error),
        remedy="free some, or raise its limit (ulimit -v); or make the batch smaller "
        "(--data.sampler.init_args.identities_per_batch), or use "
        "--trainer.precision 16-mixed; continue with --ckpt_path last",
    )


def _report(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
