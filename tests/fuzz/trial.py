"""One damaged input and one command, in a process of its own, and what is wrong with how it ended."""

from __future__ import annotations

import faulthandler
import fnmatch
import hashlib
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import files
from tests.fuzz.targets import Target

_MEMORY = 12 << 30  # bytes of address space that a trial may take beyond what it begins with
_FILE = 2 << 30  # bytes that a file may grow to
_UNCAUGHT = 99
#: How a command words what it has not foreseen.
LAST_RESORT = "in a way that it has no words for"
#: Inside a trial's folder: deep enough that a path that climbs stays in it.
_WORK = Path("one", "two", "three", "work")
#: What a command may write to, below its working folder.
_OUTPUTS = ("runs/*", "wandb/*")
_MAY_GO = (".lock", ".part", ".parts/*.parquet")  # locks, what was begun, damaged batches that are made again


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Args:
        number: which trial of its seed.
        target: what was run.
        damage: what was damaged, in words.
        wrong: what is wrong with how it ended; empty if nothing.
        code: the exit code; negative for a signal.
        said: what it printed.
        seconds: how long it took.
    """

    number: int
    target: str
    damage: str
    wrong: str
    code: int
    said: str
    seconds: float


class Trial:
    """A command at work on a damaged copy of what it needs.

    Args:
        number: which trial of its seed; the same number of the same seed is the same trial.
        seed: of all choices.
        target: what is run.
        world: the working folder that everything is copied from.
        folder: a new folder for this trial.
        command: runs the words and returns the exit code.
    """

    def __init__(
        self, number: int, seed: int, target: Target, world: Path, folder: Path, command: Callable[[list[str]], int]
    ) -> None:
        self.number, self.seed, self.target = number, seed, target
        self.world, self.folder, self.command = world, folder, command
        self.work = folder / "tree" / _WORK
        self.canary = folder / "tree" / "pickle_was_executed"
        self.started = time.monotonic()
        self._killed = False
        folder.mkdir(parents=True)
        self.process = os.fork()
        if self.process == 0:
            self._be_the_child()

    def poll(self, limit: float) -> Ended | None:
        """Return how it ended, or None while it is at work; after ``limit`` seconds it is stopped."""
        waited, status = os.waitpid(self.process, os.WNOHANG)
        if waited:
            self._stop_what_is_left()
            return self._judge(os.waitstatus_to_exitcode(status))
        past = time.monotonic() - self.started - limit
        if past > 0 and not self._killed:
            self._killed = True
            os.kill(self.process, signal.SIGUSR1)  # its stack
        if past > 1:
            self._stop_what_is_left()
        return None

    def _stop_what_is_left(self) -> None:
        try:
            os.killpg(self.process, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _be_the_child(self) -> None:
        code = _UNCAUGHT
        try:
            os.setsid()
            output = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(output, stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # a test's own go elsewhere
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            self._prepare()
            code = self.command(list(self.target.words))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else _UNCAUGHT)

    def _prepare(self) -> None:
        """Copy, damage, note what is there; then be in an empty home, and a folder from which nothing leads out."""
        for name in ("home", "tmp", "outside"):
            (self.work.parent / name).mkdir(parents=True)
        placed = dict(self.target.placed)
        literal = [pattern for pattern in self.target.damaged if "*" not in pattern]
        for name in {*self.target.needs, *placed, *literal}:
            if (self.world / name).exists():
                files.copy_tree(self.world / name, self.work / placed.get(name, name))
        rng = random.Random(f"{self.seed} {self.number}")
        candidates = [sorted(path for path in self.work.glob(pattern)) for pattern in self.target.damaged]
        found = rng.choice([matched for matched in candidates if matched])
        file = rng.choice(found)
        inside = sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]
        file = rng.choice(inside)
        (self.folder / "damage.txt").write_text("being done", encoding="utf-8")
        told = files.damage(file, rng, self.canary)
        (self.folder / "damage.txt").write_text(f"{file.relative_to(self.work).parent}/{told}", encoding="utf-8")
        (self.folder / "before.json").write_text(json.dumps(listing(self.folder / "tree")), encoding="utf-8")
        for name, place in (("HOME", "home"), ("TMPDIR", "tmp")):
            os.environ[name] = str(self.work.parent / place)
        os.environ["NETRC"] = str(self.work.parent / "home" / "netrc")
        os.chdir(self.work)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, taken + _MEMORY)
        _limit(resource.RLIMIT_FSIZE, _FILE)

    def _judge(self, code: int) -> Ended:
        seconds = time.monotonic() - self.started
        output, noted, before = (self.folder / name for name in ("output.txt", "damage.txt", "before.json"))
        said = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
        damage = noted.read_text(encoding="utf-8", errors="replace") if noted.is_file() else "none yet"
        if self._killed:
            wrong = f"it hung (stopped after {seconds:.0f} s)"
        elif not before.is_file():
            wrong = "the damage itself failed"
        else:
            wrong = how_it_ended(code, said) or self._trespasses(json.loads(before.read_text(encoding="utf-8")), code)
        return Ended(self.number, self.target.name, damage, wrong, code, said, seconds)

    def _trespasses(self, before: dict[str, str], code: int) -> str:
        """Say what was written where nothing may be written, or lost."""
        after = listing(self.folder / "tree")
        work, home = str(_WORK), str(_WORK.parent)
        may_write = [*(f"{work}/{pattern}" for pattern in _OUTPUTS), f"{home}/tmp/*", f"{work}/runs"]
        if self.canary.exists():
            return "a pickle was executed"
        for path in after.keys() - before.keys():
            if not any(fnmatch.fnmatch(path, pattern) for pattern in may_write):
                return f"it wrote to {path}"
        for path, content in before.items():
            if path.startswith(f"{work}/in/") and after.get(path) != content:
                return f"{path} was {'changed' if path in after else 'removed'}"
            if code == 2 and path not in after and not any(fnmatch.fnmatch(path, f"*{each}") for each in _MAY_GO):
                return f"{path} was removed, with exit code 2"
        return ""


def _limit(what: int, most: int) -> None:
    """Limit this process, where it is not limited more tightly already."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def how_it_ended(code: int, said: str) -> str:
    """Say what is wrong with an exit code and what was printed; "" if nothing."""
    if code < 0:
        return f"it died of {signal.Signals(-code).name}"
    if code == _UNCAUGHT or "Traceback (most recent call last)" in said:
        lines = [line for line in said.splitlines() if line and not line.startswith((" ", "Exception ignored"))]
        return f"unworded: {lines[-1] if lines else 'nothing was said'}"[:200]
    if LAST_RESORT in said:
        found = re.search(r"found:\s*(.*)", said.partition(LAST_RESORT)[2])
        return f"unworded: {found[1] if found else 'nothing was said'}"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if code == 2 and "error: " not in said:
        return "exit code 2 without a word"
    return ""


def listing(root: Path) -> dict[str, str]:
    """List a folder: each path below it, with a hash of a file's content, or what else it is."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder, name)
            kind = "folder"
            if path.is_symlink():
                kind = f"link to {path.readlink()}"
            elif path.is_file():
                kind = hashlib.sha1(path.read_bytes()).hexdigest()
            elif not path.is_dir():
                kind = "special"
            found[path.relative_to(root).as_posix()] = kind
    return found
