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
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.utilities import rank_zero_info

from diffreid_lightning.errors import RunError, UserError, shorten
from diffreid_lightning.storage import locks
from diffreid_lightning.storage.atomic import replacing_file
from diffreid_lightning.storage.json_notes import DamagedFile, damaged, read_json
from diffreid_lightning.storage.parquet_tables import read_table

NOTE = "stage.json"
_LOCK = ".lock"


class BatchStore:
    """Finished batches of one piece of work.

    Once the result is there, the note stays beside it as ``stage.json``.

    Args:
        folder: where the result is made; the parts lie in ``.parts`` inside it.
        work: what the work consists of: content hashes and settings that the result follows from, as plain JSON
            values. BatchStore of other work are never mixed in.
        rows_of: tells how many rows a batch has, by its number; 0 for one that is not in the plan. None takes any.
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
        """Make the folder, or take up what lies there; on one process, before any other uses it.

        The folder is this process's until :meth:`release`, or until it ends.

        Raises:
            UserError: another launch is at work in the folder, or it holds other work, of which at least one batch is
                finished, or its note is damaged.
            RunError: the disk refuses.
        """
        if not self.finished:
            self._take_folder()
        for note in (self.folder / NOTE, self._parts / NOTE):
            if note.parent == self._parts and not self.done():
                _forget(note)  # begun and refused, or stopped at once: nothing is lost
            if os.path.lexists(note):
                self._refuse_other_work(note)
        if not self.finished:
            self._drop_damaged()
        if self.finished or (self._parts / NOTE).is_file():
            return
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with replacing_file(self._parts / NOTE) as staged:
                staged.write_text(json.dumps(self.cache_key, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise _refused(self.folder, error) from error

    @property
    def finished(self) -> bool:
        """Return true if the result is complete."""
        return os.path.lexists(self.folder / NOTE)

    def reopen(self) -> None:
        """Begin anew where the result that the note stands for is gone; on one process, before :meth:`begin`."""
        (self.folder / NOTE).unlink(missing_ok=True)

    def done(self) -> set[int]:
        """Return the numbers of the finished batches."""
        return {int(path.stem) for path in self._parts.glob("[0-9]*.parquet") if path.stem.isdecimal()}

    def put(self, number: int, rows: pa.Table) -> None:
        """Keep a finished batch, whole or not at all.

        Args:
            number: its number in the plan.
            rows: what it came to.

        Raises:
            RunError: the disk refuses; every batch before is kept.
        """
        try:
            with replacing_file(self._file(number), contended=True) as staged:
                pq.write_table(rows, staged)
        except OSError as error:
            raise _refused(self.folder, error) from error

    def merge(self) -> pa.Table:
        """Put the finished batches under each other, in the plan's order.

        Raises:
            UserError: one of them is damaged.
        """
        files = [self._file(number) for number in sorted(self.done())]
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
        remedy = f"remove {odd} and run the same command again: it is done anew"
        raise damaged(odd, found, looked_for=f"the columns {', '.join(usual)}", remedy=remedy)

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
            self._lock = locks.take(self.folder / _LOCK)
        except OSError as error:
            raise _refused(self.folder, error) from error
        if self._lock is None:
            raise UserError(
                f"Another command is at work in {self.folder}",
                remedy="wait for it, or choose another folder; processes share the work if one command starts them "
                "(--trainer.devices)",
            )

    def _file(self, number: int) -> Path:
        return self._parts / f"{number:08d}.parquet"

    def _drop_damaged(self) -> None:
        """Remove batches that cannot be read, or are not as long as the plan says: they are done again."""
        dropped = []
        for number in sorted(self.done()):
            file = self._file(number)
            try:
                rows = len(read_table(file, remedy="move it away"))
                sound = self._rows_of is None or rows == self._rows_of(number)
            except DamagedFile:
                if file.is_dir():
                    raise
                sound = False
            if not sound:
                _forget(file)
                dropped.append(file.name)
        if dropped:
            rank_zero_info(f"{self.folder}: damaged batches are done again: {shorten(dropped)}")

    def _refuse_other_work(self, note: Path) -> None:
        found = read_json(note, remedy=f"choose another folder, or remove {note.parent} to do its batches again")
        changed = [name for name in sorted({*found, *self.cache_key}) if found.get(name) != self.cache_key.get(name)]
        if changed:
            raise UserError(
                f"{self.folder} holds work of another kind.",
                looked_for="work on the same inputs with the same settings",
                found="; ".join(f"{name}: {found.get(name)!r}, now {self.cache_key.get(name)!r}" for name in changed),
                remedy="choose another folder, or remove this one to give that work up",
            )


def _forget(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:  # a folder
        raise damaged(file, str(error), looked_for="a file of this stage", remedy="move it away") from error


def _refused(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"The disk refused to take a part of {folder}.",
        found=str(error),
        remedy="free disk space and run the same command again; every batch before this one is kept",
    )
