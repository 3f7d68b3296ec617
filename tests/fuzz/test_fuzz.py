"""The fuzzer finds faults that are planted, and nothing where there are none."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diffreid_lightning.cli.uncaught_errors import unforeseen
from diffreid_lightning.errors import UserError
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.trial import Ended, Trial, how_it_ended

NOTE = Path("in/note.json")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world/in").mkdir(parents=True)
    (tmp_path / "world" / NOTE).write_text(json.dumps({"a": [1, 2], "b": {"c": "x"}}))
    (tmp_path / "world/runs").mkdir()
    (tmp_path / "world/runs/made.txt").write_text("made")
    return tmp_path / "world"


def tried(world: Path, command: Callable[[list[str]], int], number: int = 0, limit: float = 30) -> Ended:
    target = Target("planted", ("read", "it"), ("in", "runs"), (str(NOTE),))
    trial = Trial(number, 0, target, world, world.parent / f"trial-{number}", command)
    while (ended := trial.poll(limit)) is None:
        time.sleep(0.005)
    return ended


def sound(words: list[str]) -> int:
    try:
        json.loads(NOTE.read_bytes() if NOTE.is_file() else b"")
    except (ValueError, RecursionError):
        print("error: it cannot be read")
        return 2
    Path("runs/more.txt").write_text("made of it")
    return 0


def careless(words: list[str]) -> int:
    note = json.loads(NOTE.read_text())
    return 0 * len(note["b"]["c"] * note["a"][0])


def hanging(words: list[str]) -> int:
    time.sleep(60)
    return 0


def trespassing(words: list[str]) -> int:
    Path("../../elsewhere.txt").write_text("x")
    return 0


def at_home(words: list[str]) -> int:
    Path("~/.cache").expanduser().mkdir()
    return 0


def destructive(words: list[str]) -> int:
    Path("runs/made.txt").unlink()
    print("error: refused")
    return 2


def overwriting(words: list[str]) -> int:
    NOTE.write_text("{}") if NOTE.is_file() else NOTE.symlink_to("x")
    return 0


def unpickling(words: list[str]) -> int:
    from tests.fuzz.files import Canary

    pickle.loads(pickle.dumps(Canary(Path.cwd().parents[3] / "pickle_was_executed")))
    return 0


def crashing(words: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def mute(words: list[str]) -> int:
    return 2


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (hanging, "it hung"), (trespassing, "elsewhere.txt"), (at_home, "home/.cache"),
        (destructive, "made.txt was removed"), (overwriting, "note.json was"), (unpickling, "a pickle was executed"),
        (crashing, "SIGKILL"), (mute, "without a word"), (lambda words: 3, "exit code 3"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(world: Path, command: Callable[[list[str]], int], wrong: str) -> None:
    ended = tried(world, command, limit=0.3 if command is hanging else 30)
    assert wrong in ended.wrong, ended.said


def test_damage_that_nobody_words_is_found_and_replayed(world: Path) -> None:
    """Most damage to the note is beyond a reader that words nothing; the same number is the same damage."""
    found = [tried(world, careless, number) for number in range(8)]
    unworded = [ended for ended in found if ended.wrong.startswith("unworded")]
    assert len(unworded) >= 2
    (world.parent / "trial-0").rename(world.parent / "first")
    assert tried(world, careless, 0).damage == found[0].damage


def test_what_is_answered_is_not_complained_about(world: Path) -> None:
    assert [tried(world, sound, number).wrong for number in range(6)] == [""] * 6


def test_an_error_that_was_not_foreseen_counts_though_it_is_printed() -> None:
    assert how_it_ended(1, "Traceback (most recent call last):\n  x\nKeyError: 'a'").startswith("unworded: KeyError")
    assert how_it_ended(1, f"error: {unforeseen(KeyError('a'))}").startswith("unworded: KeyError")
    assert how_it_ended(2, f"error: {UserError('x', remedy='y')}") == ""


def test_every_target_names_a_command_and_files() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)
    assert all(target.words and target.damaged for target in TARGETS)
