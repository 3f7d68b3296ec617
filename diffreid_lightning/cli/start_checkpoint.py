"""Choose the checkpoint that a command starts from, and the run folder that a ``fit`` goes on in.

``--ckpt_path last`` means the newest run under the root that has a last checkpoint; a ``fit`` that continues from it
goes on in the same folder, under the same W&B run id. A ``fit`` whose SLURM job was requeued does so unasked.
For a ``fit``, ``last`` and ``best`` mean a run that no other process is at work in. The whole story of kill and resume:
``docs/guide/runs_and_resuming.md``.
"""

from __future__ import annotations

import os
from pathlib import Path

from diffreid_lightning.cli.run_folder import CHECKPOINTS, find_fits, is_taken, run_number, this_job
from diffreid_lightning.errors import UserError, did_you_mean
from diffreid_lightning.paths import user_path
from diffreid_lightning.run_summary import CONFIG_FILE, IDENTITY_FILE
from diffreid_lightning.run_summary import FILE as SUMMARY
from diffreid_lightning.storage.json_notes import read_sound_json

_MOST_SHOWN = 6


def resolve_checkpoint(name: str | None, root: Path, *, to_go_on: bool = False) -> Path | None:
    """Turn ``--ckpt_path`` into a file.

    Args:
        name: a checkpoint file, a run folder (its last checkpoint), or ``last`` / ``best``: that checkpoint of the
            newest run under ``root`` which has one.
        root: the folder that holds the runs (``trainer.default_root_dir``).
        to_go_on: ``last`` and ``best`` pass over runs that another process is at work in.

    Raises:
        UserError: there is no such file, or no run with such a checkpoint.
    """
    if name is None:
        return None
    if name in ("last", "best"):
        fits = find_fits(root)
        taken = [run for run in fits if is_taken(run)] if to_go_on else []
        found = _newest_with(name, [run for run in fits if run not in taken])
        if found is not None:
            return found
        at_work = [f"{run.name} (another process is at work in it)" for run in taken]
        runs = [*(run.name for run in fits if run not in taken), *at_work]
        raise UserError(
            f"There is no run to take the {name} checkpoint of.",
            looked_for=f"{root.absolute()}/fit-*/{CHECKPOINTS}/{name}.ckpt",
            found=f"runs without one: {', '.join(runs)}" if runs else "no run at all",
            remedy="start the run without --ckpt_path, or name a checkpoint file or another --trainer.default_root_dir",
        )
    path = user_path(name)
    if path.is_dir():
        last = [path / CHECKPOINTS / "last.ckpt", path / "last.ckpt"]
        path = next((candidate for candidate in last if candidate.is_file()), last[0])
    if not path.is_file():
        siblings = sorted(item.name for item in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        there = ", ".join(run.name for run in find_fits(root)[-_MOST_SHOWN:])
        beside = f"beside it: {', '.join(siblings)}" if siblings else "no checkpoint in that folder"
        raise UserError(
            f"There is no checkpoint {name!r}.",
            looked_for=str(path.absolute()),
            found=(beside if path.parent.is_dir() else "no such folder")
            + (f"; runs under {root}: {there}" if there else ""),
            remedy=did_you_mean(name, ("last", "best"), "name a .ckpt file, a run folder, or 'last' or 'best'"),
        )
    return path


def where_to_start(name: str | None, root: Path, config: str) -> tuple[Path | None, Path | None]:
    """Decide what a ``fit`` starts from and where.

    Args:
        name: ``--ckpt_path`` as it was given. ``last`` where no run has a checkpoint is a start from the beginning.
            Runs that another process is at work in are passed over.
        root: the folder that holds the runs.
        config: the configuration it runs, as the run folder will hold it.

    Returns:
        The checkpoint to start from (None: from the beginning), and the run folder to go on in (None: a new one).

    Raises:
        UserError: ``name`` means no checkpoint.
    """
    requeued = requeued_run(root, config)
    saved: list[Path] = []
    if requeued is not None:
        last = requeued / CHECKPOINTS / "last.ckpt"
        saved = [*requeue_checkpoints(requeued), *([last] if last.is_file() else [])]
    if saved:
        return max(saved, key=lambda path: path.stat().st_mtime_ns), requeued
    if requeued is not None:
        return (None if name == "last" else resolve_checkpoint(name, root, to_go_on=True)), requeued
    if name == "last":
        free = [run for run in find_fits(root) if not is_taken(run)]
        if _newest_with("last", free) is None:
            begun = (run for run in reversed(free) if (run / IDENTITY_FILE).is_file())
            return None, next((run for run in begun if not (run / SUMMARY).is_file()), None)
    checkpoint = resolve_checkpoint(name, root, to_go_on=True)
    return checkpoint, None if checkpoint is None else run_of_checkpoint(checkpoint)


def describe_start(checkpoint: Path | None, continued: Path | None, root: Path) -> str:
    """Describe the decision of :func:`where_to_start`.

    Args:
        checkpoint: what it starts from.
        continued: the folder it goes on in.
        root: the folder that holds the runs.
    """
    if checkpoint is None and continued is None:
        taken = [run.name for run in find_fits(root) if is_taken(run)]
        but = f", but for {', '.join(taken)}, which another process is at work in" if taken else ""
        return f"No run under {root} has a checkpoint yet{but}: a new one starts from the beginning."
    if checkpoint is None:
        return f"{continued} was stopped before its first checkpoint: it starts from the beginning."
    if continued is None:
        return f"A new run starts from {checkpoint}."
    fits = find_fits(root.resolve())
    newer = [run.name for run in fits if run_number(run) > run_number(continued)] if continued in fits else []
    passed_over = f" (newer, without a checkpoint: {', '.join(newer)})" if newer else ""
    return f"{continued} goes on from {checkpoint.name}{passed_over}."


def requeued_run(root: Path, config: str) -> Path | None:
    """Return the newest folder in which this SLURM job ran ``config`` before it was requeued, None when it was not."""
    if this_job() is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    for run in sorted(root.glob("fit-*"), key=run_number, reverse=True):
        saved = run / CONFIG_FILE
        same = saved.is_file() and saved.read_bytes() == config.encode() and _slurm_job(run) == this_job()
        if same and not is_taken(run):
            return run
    return None


def requeue_checkpoints(run: Path) -> list[Path]:
    """Return what Lightning saved in a run folder when SLURM announced the end of the job."""
    return sorted(run.glob("hpc_ckpt_*.ckpt"))


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """Return the run folder a checkpoint lies in, or None when it lies elsewhere."""
    # Lightning's own for a requeued job lie beside the folder of checkpoints.
    folders = checkpoint.resolve().parents[:2]
    return next((folder for folder in folders if (folder / IDENTITY_FILE).is_file()), None)


def _slurm_job(run: Path) -> str | None:
    job = (read_sound_json(run / IDENTITY_FILE) or {}).get("slurm_job")
    return None if job is None else str(job)


def _newest_with(name: str, fits: list[Path]) -> Path | None:
    """Return the newest fit's checkpoint of that name; the fits come oldest first."""
    found = (run / CHECKPOINTS / f"{name}.ckpt" for run in reversed(fits))
    return next((path for path in found if path.is_file()), None)
