"""Finished batches of a stage on disk, so that a killed stage resumes.

A stage divides its rows into a fixed plan of batches. Each finished batch is a Parquet file in a hidden folder inside
the output folder; a note there holds the cache key. Processes of this or a later launch share the missing batches,
since the plan is fixed; a second launch is refused while the first runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.errors import UserError, shorten, translate_disk_errors
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import DamagedFile, damaged_error, read_json, replace_json
from diffreid_lightning.storage.parquet_tables import read_table

NOTE = "stage.json"
_LOCK = ".lock"


class BatchStore:
    """Finished batches of one result.

    When the result is complete, the note stays beside it as ``stage.json``.

    Args:
        folder: the output folder; the batches are in ``.parts`` inside it.
        work: the cache key: content hashes and settings that determine the result, as plain JSON values. Batches with
            another key are refused.
        rows_of: returns the number of rows of a batch, 0 outside the plan. None accepts any number.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        work: Mapping[str, Any],
        rows_of: Callable[[int], int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.cache_key = json.loads(json.dumps(work))
        self._rows_of = rows_of
        self._parts = self.folder / ".parts"
        self._lock: locks.FileLock | None = None

    def begin(self) -> None:
        """Lock the folder, and create it or resume from it; call it in one process, before any other uses it.

        The lock is held until :meth:`release`, or until the process ends.

        Raises:
            UserError: another launch uses the folder, it has finished batches with another cache key, or its note is
                damaged.
            RunError: the disk failed.
        """
        if not self.finished:
            self._lock_folder()
        for note in (self.folder / NOTE, self._parts / NOTE):
            if note.parent == self._parts and not self.finished_batches():
                _remove(note)  # nothing is lost without a finished batch
            if os.path.lexists(note):
                self._refuse_other_work(note)
        if not self.finished:
            self._drop_damaged()
        if self.finished or (self._parts / NOTE).is_file():
            return
        with _disk_errors(self.folder):
            self._parts.mkdir(parents=True, exist_ok=True)
            replace_json(self._parts / NOTE, self.cache_key)

    @property
    def finished(self) -> bool:
        """Return true if the result is complete."""
        return os.path.lexists(self.folder / NOTE)

    def reopen(self) -> None:
        """Drop the note of a result that is missing, to start again; in one process, before :meth:`begin`."""
        (self.folder / NOTE).unlink(missing_ok=True)

    def finished_batches(self) -> set[int]:
        """Return the numbers of the finished batches."""
        return {int(path.stem) for path in self._parts.glob("[0-9]*.parquet") if path.stem.isdecimal()}

    def put(self, number: int, rows: pa.Table) -> None:
        """Store a finished batch atomically.

        Args:
            number: its number in the plan.
            rows: its result.

        Raises:
            RunError: the disk failed; earlier batches are kept.
        """
        with _disk_errors(self.folder), replace_file(self._file(number), contended=True) as staged:
            pq.write_table(rows, staged)

    def merge(self) -> pa.Table:
        """Concatenate the finished batches in the plan's order.

        Raises:
            UserError: one of them is damaged.
        """
        files = [self._file(number) for number in sorted(self.finished_batches())]
        tables = [read_table(file, remedy=f"remove {file} and run the same command again") for file in files]
        usual = Counter(tuple(table.column_names) for table in tables).most_common(1)[0][0]
        odd = next(
            (file for file, table in zip(files, tables, strict=True) if tuple(table.column_names) != usual), None
        )
        try:
            if odd is None:
                return pa.concat_tables(tables, promote_options="default")
            found = "other columns than most"
        except pa.ArrowException as error:
            odd, found = files[0], f"columns of other types than the rest: {error}"
        remedy = f"remove {odd} and run the same command again, which repeats this batch"
        raise damaged_error(odd, found, looked_for=f"the columns {', '.join(usual)}", remedy=remedy)

    def finish(self) -> None:
        """Keep the note and remove the batches, after the result was written."""
        note = self._parts / NOTE
        if note.is_file():
            note.replace(self.folder / NOTE)
        shutil.rmtree(self._parts, ignore_errors=True)

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            (self.folder / _LOCK).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _lock_folder(self) -> None:
        with _disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.take(self.folder / _LOCK)
        if self._lock is None:
            raise UserError(
                f"Another command is at work in {self.folder}",
                remedy="wait for it, or choose another folder; processes share the work if one command starts them "
                "(--trainer.devices)",
            )

    def _file(self, number: int) -> Path:
        return self._parts / f"{number:08d}.parquet"

    def _drop_damaged(self) -> None:
        """Remove batches that are unreadable or differ in length from the plan, so that they are repeated."""
        dropped = []
        for number in sorted(self.finished_batches()):
            file = self._file(number)
            try:
                rows = len(read_table(file, remedy="move it away"))
                sound = self._rows_of is None or rows == self._rows_of(number)
            except DamagedFile:
                if file.is_dir():
                    raise
                sound = False
            if not sound:
                _remove(file)
                dropped.append(file.name)
        if dropped:
            rank_zero_info(f"{self.folder}: damaged batches are repeated: {shorten(dropped)}")

    def _refuse_other_work(self, note: Path) -> None:
        found = read_json(note, remedy=f"choose another folder, or remove {note.parent} to do its batches again")
        changed = [name for name in sorted({*found, *self.cache_key}) if found.get(name) != self.cache_key.get(name)]
        if changed:
            raise UserError(
                f"{self.folder} holds results of other inputs or settings.",
                looked_for="results of the same inputs and settings",
                found="; ".join(f"{name}: {found.get(name)!r}, now {self.cache_key.get(name)!r}" for name in changed),
                remedy="choose another folder, or remove this one to discard its results",
            )


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:  # a folder
        raise damaged_error(file, str(error), looked_for="a file of this stage", remedy="move it away") from error


def _disk_errors(folder: Path) -> AbstractContextManager[None]:
    remedy = "free disk space and run the same command again; earlier batches are kept"
    return translate_disk_errors(f"A part of {folder} cannot be written.", remedy)
