"""The parts of a table that a stage is making, batch by batch, so that a killed stage goes on where it was.

A stage cuts its work into a fixed plan of batches. Each finished batch lies as one Parquet file in a hidden folder
beside what is being made; the folder's note says which work it belongs to. The processes of one launch, this one or a
later, share the batches that are missing, because their members never change; a second launch is refused while the
first runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffreid_lightning import file_lock
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.whole_folder import replacing_file

NOTE = "stage.json"
_LOCK = ".lock"


class Parts:
    """Finished batches of one piece of work.

    Once the result is there, the note stays beside it as ``stage.json``.

    Args:
        folder: where the result is made; the parts lie in ``.parts`` inside it.
        work: what the work consists of: content hashes and settings that the result follows from, as plain JSON
            values. Parts of other work are never mixed in.
    """

    def __init__(self, folder: str | os.PathLike[str], work: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.work = json.loads(json.dumps(work))
        self._parts = self.folder / ".parts"
        self._lock: file_lock.FileLock | None = None

    def begin(self) -> None:
        """Make the folder, or take up what lies there; on one process, before any other uses it.

        The folder is this process's until :meth:`release`, or until it ends.

        Raises:
            UserError: another launch is at work in the folder, or it holds other work, of which at least one batch is
                finished.
            RunError: the disk refuses.
        """
        if not self.finished:
            self._take_folder()
        for note in (self.folder / NOTE, self._parts / NOTE):
            if note.parent == self._parts and not self.done():
                note.unlink(missing_ok=True)  # begun and refused, or stopped at once: nothing is lost
            if note.is_file():
                self._refuse_other_work(note)
        if self.finished or (self._parts / NOTE).is_file():
            return
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with replacing_file(self._parts / NOTE) as staged:
                staged.write_text(json.dumps(self.work, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise _refused(self.folder, error) from error

    @property
    def finished(self) -> bool:
        """Whether the result was made before."""
        return (self.folder / NOTE).is_file()

    def done(self) -> set[int]:
        """Return the numbers of the finished batches."""
        return {int(path.stem) for path in self._parts.glob("[0-9]*.parquet")}

    def put(self, number: int, rows: pa.Table) -> None:
        """Keep a finished batch, whole or not at all.

        Args:
            number: its number in the plan.
            rows: what it came to.

        Raises:
            RunError: the disk refuses; every batch before is kept.
        """
        try:
            with replacing_file(self._parts / f"{number:08d}.parquet", contended=True) as staged:
                pq.write_table(rows, staged)
        except OSError as error:
            raise _refused(self.folder, error) from error

    def merge(self) -> pa.Table:
        """Put the finished batches under each other, in the plan's order."""
        tables = [pq.ParquetFile(self._parts / f"{number:08d}.parquet").read() for number in sorted(self.done())]
        return pa.concat_tables(tables, promote_options="default")

    def finish(self) -> None:
        """Keep the note and remove the parts, once the result they belong to is written."""
        note = self._parts / NOTE
        if note.is_file():
            note.replace(self.folder / NOTE)
        shutil.rmtree(self._parts, ignore_errors=True)

    def release(self) -> None:
        """Let other launches have the folder."""
        if self._lock is not None:
            (self.folder / _LOCK).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _take_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = file_lock.take(self.folder / _LOCK)
        except OSError as error:
            raise _refused(self.folder, error) from error
        if self._lock is None:
            raise UserError(
                f"Another command is at work in {self.folder}",
                remedy="wait for it, or choose another folder; processes share the work if one command starts them "
                "(--trainer.devices)",
            )

    def _refuse_other_work(self, note: Path) -> None:
        found = json.loads(note.read_text(encoding="utf-8"))
        changed = [name for name in sorted({*found, *self.work}) if found.get(name) != self.work.get(name)]
        if changed:
            raise UserError(
                f"{self.folder} holds work of another kind.",
                looked_for="work on the same inputs with the same settings",
                found="; ".join(f"{name}: {found.get(name)!r}, now {self.work.get(name)!r}" for name in changed),
                remedy="choose another folder, or remove this one to give that work up",
            )


def _refused(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"The disk refused to take a part of {folder}.",
        found=str(error),
        remedy="free disk space and run the same command again; every batch before this one is kept",
    )
