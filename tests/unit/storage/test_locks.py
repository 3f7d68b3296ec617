"""One process at a time, whoever it is, and nobody after it has ended."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

from diffreid_lightning.storage import locks

_HOLD = """
import sys, time
from pathlib import Path
from diffreid_lightning.storage import locks
held = locks.take(Path(sys.argv[1]), note="me")
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_keeps_others_out_until_its_process_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert locks.read_holder(file) == "me"
        assert locks.take(file) is None
    finally:
        holder.kill()
        holder.wait()
    assert locks.read_holder(file) is None
    lock = locks.take(file)
    assert lock is not None
    lock.release()


def test_a_forked_worker_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    lock = locks.take(tmp_path / "lock")
    assert lock is not None
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    worker = context.Process(target=lambda: (ready.set(), over.wait(60)))
    worker.start()
    try:
        assert ready.wait(60)
        assert locks.read_holder(tmp_path / "lock") == "", "the parent still has it"
        lock.release()
        assert locks.read_holder(tmp_path / "lock") is None
    finally:
        over.set()
        worker.join()


def test_a_lock_on_a_file_that_was_replaced_is_none(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first = locks.take(file)
    assert first is not None
    file.unlink()
    second = locks.take(file)
    assert second is not None, "another file under the same name"
    assert locks.take(file) is None
    for lock in (first, second, second):
        lock.release()
    assert locks.read_holder(file) is None and locks.read_holder(tmp_path / "none") is None
