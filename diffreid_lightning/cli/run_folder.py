"""Create and lock run folders: ``<root>/<subcommand>-<number>`` holds everything a run writes.

A command may be refused when the folder is already open (the checkpoint does not fit, the data are too few). So nothing
is written to a run that is continued before :func:`note_attempt`, and a new run that made nothing is taken back by
:func:`close_run`.

While a process is at work in a folder it holds the lock in it, and no other goes on there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import not_a_file
from diffreid_lightning.run_summary import CONFIG_FILE, IDENTITY_FILE, METRICS
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import read_json

#: The launcher of a multi-process run starts the command again in each process; they all meet in the first one's
#: folder.
ENVIRONMENT = "DIFFREID_RUN_FOLDER"
CHECKPOINTS = "checkpoints"
LOCK_FILE = ".lock"
#: what processes of one launch have in common, where the launcher is not Lightning's own
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
_MOMENT = 0.2  # seconds; rank 0 has locked its folder and not yet noted whose launch it is
_held: list[locks.FileLock] = []
_made: list[Path] = []  # folders above the run's that were not there before it, outermost first


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Args:
        path: the folder; created by :func:`open_run`.
        run_id: the id under which W&B knows the run; the same for every attempt at it.
        attempt: 1 for a new run, one more each time it is continued.
        project: the W&B project it is recorded in, once it is.
        entity: the W&B account it is recorded under, once it is.
    """

    path: Path
    run_id: str
    attempt: int
    project: str | None = None
    entity: str | None = None


def launched_rank() -> int:
    """Return the rank that torchrun, SLURM or Lightning's launcher gave this process; 0 when none did."""
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        value = os.environ.get(name, "").strip()
        if value.isdecimal() and int(value):
            return int(value)
    return 0


def launched_world() -> int:
    """Return the number of processes that torchrun or SLURM started; 1 when none did."""
    found = (os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return max(1, *(int(value) if value.isdecimal() else 1 for value in found))


def open_run(root: Path, subcommand: str, continued: Path | None = None) -> RunFolder:
    """Create the folder of a new run, or open that of the run being continued, where nothing is written yet.

    Args:
        root: the folder that holds the runs.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``; the folder is named after it.
        continued: the run folder to go on in, if any.

    Raises:
        UserError: the folder cannot be created, or another process is at work in it.
    """
    inherited = os.environ.get(ENVIRONMENT)
    if inherited:
        return _read(Path(inherited))
    if continued is not None:
        run = _read(continued)
        run = replace(run, attempt=run.attempt + (launched_rank() == 0))
    elif launched_rank() > 0:
        # Rank 0 of an outside launcher makes the folder; whoever else must write asks it by broadcast.
        return RunFolder(root, "", 1)
    else:
        run = RunFolder(_new_folder(root, subcommand), secrets.token_hex(4), 1)
    if launched_rank() == 0:
        _occupy(run.path)
        if continued is None:
            note_attempt(run)
        os.environ[ENVIRONMENT] = str(run.path)
    return run


def note_attempt(run: RunFolder) -> None:
    """Record that this attempt at a run has started."""
    entries = {"run_id": run.run_id, "attempt": run.attempt, "slurm_job": this_job()}
    tracked = {name: value for name in ("project", "entity") if (value := getattr(run, name)) is not None}
    identity = json.dumps({**entries, **tracked})
    with replace_file(run.path / IDENTITY_FILE) as staged:  # other processes of this launch may be reading it
        staged.write_text(identity + "\n", encoding="utf-8")


def close_run() -> None:
    """Close the open run, and remove folders in which nothing was written, as far as the disk lets it."""
    path = os.environ.pop(ENVIRONMENT, None)
    try:
        if path is not None and launched_rank() == 0 and Path(path).is_dir():
            with suppress(OSError):  # whatever ended the command is what the user should hear of
                _tidy(Path(path))
    finally:
        _release()


def _tidy(run: Path) -> None:
    if _held:  # before another process may take the lock: the next file of this name is another one
        (run / LOCK_FILE).unlink(missing_ok=True)
        _release()  # NFS keeps an open file under another name, and the folder with it
    if made_nothing(run):
        shutil.rmtree(run)
        with suppress(OSError):  # another command is at work there
            while _made:
                _made.pop().rmdir()
        return
    # The loggers make theirs as the trainer sets up.
    for folder in [*run.glob(f"{METRICS}/attempt-*"), run / METRICS]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def made_nothing(run: Path) -> bool:
    """Return true if a run folder holds nothing but who is at work in it."""
    return all(item.is_dir() or item.name in (IDENTITY_FILE, LOCK_FILE) for item in run.rglob("*"))


def _release() -> None:
    while _held:
        _held.pop().release()


def _occupy(run: Path) -> None:
    """Hold the lock of a run folder until :func:`close_run`, or the end of this process."""
    lock = locks.take(run / LOCK_FILE, note=_launch())
    if lock is None:
        raise UserError(
            f"Another process is at work in {run}.",
            looked_for="a run that nobody is training, to go on in its folder",
            remedy="wait until it has ended; or copy the checkpoint to another folder and name the copy, which starts "
            "a run of its own",
        )
    _held.append(lock)


def is_taken(run: Path) -> bool:
    """Return true if a process of another launch uses a run folder."""
    inherited = os.environ.get(ENVIRONMENT)
    if inherited and run.resolve() == Path(inherited).resolve():
        return False
    holder = locks.read_holder(run / LOCK_FILE)
    if holder is None or launched_rank() == 0:
        return holder is not None
    # Rank 0 of the same launch may be ahead of this process, and in the folder that both go on in.
    if holder != _launch():
        time.sleep(_MOMENT)
        holder = locks.read_holder(run / LOCK_FILE)
    return holder is not None and holder != _launch()


def _launch() -> str:
    return json.dumps([os.environ.get(name) for name in _LAUNCH])


def _read(path: Path) -> RunFolder:
    for name in (CONFIG_FILE, "results.csv", f"{CHECKPOINTS}/last.ckpt", f"{CHECKPOINTS}/best.ckpt"):
        found = not_a_file(path / name) if os.path.lexists(path / name) else None
        if found is not None:
            remedy = "move it away"
            raise UserError(
                f"Something else lies in the place of a run's file: {path / name}", found=found, remedy=remedy
            )
    file = path / IDENTITY_FILE
    remedy = "remove it and name the run's checkpoint file with --ckpt_path: a new run goes on from there"
    identity = read_json(file, {"run_id": str, "attempt": int}, remedy=remedy)
    tracked = {name: str(identity[name]) for name in ("project", "entity") if identity.get(name)}
    return RunFolder(path, identity["run_id"], identity["attempt"], **tracked)


def this_job() -> str | None:
    """Return the id of the SLURM job that this process belongs to, if any."""
    return os.environ.get("SLURM_JOB_ID")


def find_fits(root: Path) -> list[Path]:
    """Return the fits under a root, oldest first."""
    return sorted((path for path in root.glob("fit-*") if path.is_dir()), key=run_number)


def run_number(folder: Path) -> int:
    """Return the number at the end of a run folder's name; -1 where there is none."""
    match = re.search(r"-(\d+)$", folder.name)
    return int(match.group(1)) if match else -1


def _new_folder(root: Path, subcommand: str) -> Path:
    try:
        new = [folder for folder in reversed((root, *root.parents)) if not folder.exists()]
        root.mkdir(parents=True, exist_ok=True)
        _made[:] = new
        number = max((run_number(path) for path in root.iterdir() if path.is_dir()), default=0)
        while True:
            number = max(number, 0) + 1
            path = root / f"{subcommand}-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:  # another process was quicker
                continue
            return path
    except OSError as error:
        raise UserError(
            "The folder for the run cannot be made.",
            looked_for=str(root.absolute()),
            found=error.strerror or str(error),
            remedy="give another one with --trainer.default_root_dir",
        ) from error
