"""Arrays filled by one process at a time."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.storage.resumable_array import fill_array, holds_array, map_array, new_array

ROWS = np.arange(10, dtype=np.int64)


def fill(file: Path, done: list[int], pause: tuple[threading.Event, threading.Event] | None = None) -> None:
    """Fill with row numbers, noting the batches; with a pause, say that it has begun, and wait to be let on."""

    def compute(start: int, end: int) -> npt.NDArray[np.generic]:
        if pause is not None:
            pause[0].set()
            assert pause[1].wait(60)
        done.append(start)
        return ROWS[start:end]

    fill_array(file, (10,), np.int64, 4, compute, "rows")


def test_two_that_fill_one_array_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    """The second begins before the first has finished a batch, when nothing on the disk but the lock says so."""
    file = tmp_path / "cache" / "a.npy"
    first: list[int] = []
    second: list[int] = []
    begun, go_on = threading.Event(), threading.Event()
    threads = [threading.Thread(target=fill, args=(file, first, (begun, go_on)))]
    threads[0].start()
    assert begun.wait(60)
    threads.append(threading.Thread(target=fill, args=(file, second)))
    threads[1].start()
    threads[1].join(0.3)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert (first, second) == ([0, 4, 8], [])
    np.testing.assert_array_equal(np.load(file), ROWS)
    assert [path.name for path in file.parent.iterdir()] == ["a.npy"]


def test_one_that_waited_goes_on_where_the_other_stopped(tmp_path: Path) -> None:
    def stop_at_the_second(start: int, end: int) -> npt.NDArray[np.generic]:
        if start:
            raise KeyboardInterrupt
        return ROWS[start:end]

    file = tmp_path / "a.npy"
    with pytest.raises(KeyboardInterrupt):
        fill_array(file, (10,), np.int64, 4, stop_at_the_second, "rows")
    done: list[int] = []
    fill(file, done)
    assert done == [4, 8]
    np.testing.assert_array_equal(np.load(file), ROWS)


def test_a_mark_without_its_array_counts_for_nothing(tmp_path: Path) -> None:
    """A kill between the last rename and the removal of the mark, and the array removed by hand."""
    file = tmp_path / "a.npy"
    file.with_suffix(".done").write_text("8")
    done: list[int] = []
    fill(file, done)
    assert done == [0, 4, 8]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def full(descriptor: int, offset: int, length: int) -> None:
        asked.append(length)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        fill(tmp_path / "a.npy", [])
    assert asked == [(tmp_path / "a.part").stat().st_size]
    monkeypatch.undo()
    done: list[int] = []
    fill(tmp_path / "a.npy", done)
    assert done == [0, 4, 8]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
def test_the_room_is_taken_before_the_first_batch(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    new_array(file, np.uint8, (1 << 20,))
    assert file.stat().st_blocks * 512 >= 1 << 20


def test_values_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    values = np.arange(10, dtype=np.float32)[:, None]

    def compute(start: int, end: int) -> npt.NDArray[np.generic]:
        return np.where(values == broken, np.inf, values)[start:end].astype(np.float16)

    broken = 6
    with pytest.raises(RunError, match="not finite") as error:
        fill_array(file, (10, 1), np.float16, 4, compute, "latents")
    assert error.value.found == "1 of 4 rows, the first is row 6" and not file.exists()
    broken = -1
    fill_array(file, (10, 1), np.float16, 4, compute, "latents")
    assert np.load(file).tolist() == values.tolist()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes().replace(b"fortran", b"fort\x01an")),
        lambda file: np.save(file, np.zeros((10, 2), np.int64)),
        lambda file: np.save(file, np.zeros(10, np.float32)),
        lambda file: np.save(file, np.array([print], dtype=object), allow_pickle=True),
    ],
)
def test_a_damaged_array_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file, done = tmp_path / "a.npy", list[int]()
    fill(file, done)
    assert holds_array(file, np.int64, (10,)) and holds_array(file, np.int64, (None,))
    damage(file)
    assert not holds_array(file, np.int64, (10,))
    with pytest.raises(UserError, match=r"a\.npy"):
        map_array(file, np.int64, (10,), remedy="")
    done.clear()
    fill(file, done)
    assert done == [0, 4, 8]
    np.testing.assert_array_equal(np.load(file), ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("mark", ["", "x", "-4", "99", "4\x00"])
def test_what_a_killed_run_left_is_not_gone_on_with_where_it_is_damaged(tmp_path: Path, mark: str) -> None:
    file, done = tmp_path / "a.npy", list[int]()
    new_array(file.with_suffix(".part"), np.int64, (10,)).flush()
    file.with_suffix(".done").write_text(mark)
    fill(file, done)
    assert done == [0, 4, 8]
    np.testing.assert_array_equal(np.load(file), ROWS)


@pytest.mark.parametrize("name", ["a.npy", "a.part", "a.done"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        fill(tmp_path / "a.npy", [])
