"""``main``: find the command, and word whatever goes wrong on the way."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence

from diffreid_lightning.cli import run_folder
from diffreid_lightning.errors import DiffReIDError, RunError, UserError, nearest

SUBCOMMANDS = ("fit", "validate", "test", "predict")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_WORKER_TRACEBACK = "Original Traceback (most recent call last)"

HELP = """usage: python -m diffreid_lightning COMMAND [options]

  fit        train a Re-ID backbone, then report mAP and Rank-1 (no options: the embedded MiniPerson); with --config
             pipeline/personalise, pipeline/score, pipeline/pretrain or pipeline/transfer, a stage of the chain
  validate   evaluate a checkpoint on the identities held out of train
  test       evaluate a checkpoint on query and gallery
  predict    write the features of query and gallery; with --config pipeline/caption, pipeline/generate or
             pipeline/score_generated, a stage of the chain
  pipeline   run the whole chain: caption, personalise, generate, score, select, pre-train, transfer
  select     choose among scored images and write Diff-Person
  convert FILE       another project's backbone (LUPerson, CION, torchreid, fast-reid) as a timm folder
  data check PATH    count a dataset's identities, images and cameras beside the published ones
  data sheet PATH    draw a dataset's people, some images each
  data export PATH   write a dataset as a Market-1501 folder, hard links where the disk allows

  python -m diffreid_lightning fit --config experiment/bot_market1501 --data.train /data/market1501     your own data
  python -m diffreid_lightning COMMAND --help                        a command's own options, and the trainer's
  python -m diffreid_lightning fit --model.help SupervisedReID       a class's; also --data.help ReIDDataModule
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the words after ``python -m diffreid_lightning``; None takes them from the command line.

    Returns:
        The exit code: 0, 2 for a mistake in the arguments or the data, 1 for a run that failed, 130 for one that was
        interrupted and 143 for one that was terminated.
    """
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be text, nor the terminal's encoding hold it
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(words)
    except SystemExit as stop:  # --help, --print_config; and Lightning's trainer, where it was interrupted
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _report(_interruption(), 130)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's, which is not imported for the light commands
            return _report(_interruption(), 143)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _report(_interruption(), 130)
    except DiffReIDError as error:
        return _report(_from_worker(error), error.exit_code)
    except OSError as error:
        if error.errno in _FORBIDDEN:
            remedy = "check its owner and permissions, or name a place that can be written"
            denied = UserError("A file cannot be used.", found=str(error), remedy=remedy)
            return _report(denied, denied.exit_code)
        if error.errno not in _DISK_ERRORS:
            raise
        return _report(_disk_error(error), 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for the light commands
            raise
        return _report(_memory_error(error), 1)
    finally:
        run_folder.close_run()


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] == "data":
        from diffreid_lightning.cli.data import data_command

        return data_command(words[1:])
    if words[0] == "select":
        from diffreid_lightning.cli.select import select_command

        return select_command(words[1:])
    if words[0] == "convert":
        from diffreid_lightning.cli.convert import convert_command

        return convert_command(words[1:])
    if words[0] == "pipeline":
        from diffreid_lightning.cli.pipeline import pipeline_command

        return pipeline_command(words[1:])
    if words[0] not in SUBCOMMANDS:
        commands = (*SUBCOMMANDS, "select", "data", "convert", "pipeline")
        guess = nearest(words[0], commands)
        raise UserError(
            f"There is no command {words[0]!r}.",
            found=f"the commands are {', '.join(commands)}",
            remedy=f"did you mean {guess!r}?" if guess else "see python -m diffreid_lightning --help",
        )
    # Here, not above: torch and Lightning take seconds to import, and --help should not.
    from diffreid_lightning.cli.lightning_cli import run_command

    run_command(words[0], words[1:])
    return 0


def _interruption() -> RunError:
    return RunError("Interrupted.", remedy="continue with the same command; a fit goes on with --ckpt_path last")


def _from_worker(error: DiffReIDError) -> DiffReIDError:
    """Undo what a DataLoader does to an error on its way out of a worker: keep the words, drop the traceback."""
    text = str(error)
    if _WORKER_TRACEBACK not in text:
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


def _memory_error(error: RuntimeError) -> RunError:
    return RunError(
        "The device ran out of memory.",
        found=str(error).splitlines()[0],
        remedy="make the batch smaller (--data.sampler.init_args.identities_per_batch), or use "
        "--trainer.precision 16-mixed; continue with --ckpt_path last",
    )


def _report(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
