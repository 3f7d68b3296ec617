"""A stage's process when it is interrupted: it says its last words, and hears of it once."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from diffreid_lightning.pipeline import stage_process
from diffreid_lightning.pipeline.stage_process import run_logged

#: stands in for the command: at an interrupt it notes it, says more than a pipe holds, and takes a moment to end
CHATTY = """#!/bin/sh
trap 'printf x >> {counted}; head -c 300000 /dev/zero; sleep 0.1; exit 3' {signals}
echo ready
while :; do sleep 0.02; done
"""
#: calls it where there is a terminal
ON_A_TERMINAL = """
import subprocess, sys
from pathlib import Path
from diffreid_lightning.pipeline.stage_process import run_logged
subprocess.Popen.send_signal = lambda *_: print("told once more")
sys.executable = {command!r}
try:
    run_logged(["fit"], {{}}, Path({log!r}))
except KeyboardInterrupt:
    print("interrupted")
"""


def chatty(folder: Path, signals: str) -> Path:
    script = folder / "chatty"
    script.write_text(CHATTY.format(counted=folder / "counted", signals=signals), encoding="utf-8")
    script.chmod(0o755)
    return script


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail where something would wait for ever."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_command_says_its_last_words_even_where_interrupts_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a chain that a script has started in the background."""
    monkeypatch.setattr(sys, "executable", str(chatty(tmp_path, "TERM; trap '' INT")))
    monkeypatch.setattr(stage_process, "_in_foreground", lambda: False)
    shown: list[int] = []

    def interrupt_first(block: bytes) -> None:
        shown.append(len(block))
        if len(shown) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage_process, "_show", interrupt_first)
    with at_most(10), pytest.raises(KeyboardInterrupt):
        run_logged(["fit"], {}, tmp_path / "a.log")
    assert (tmp_path / "a.log").stat().st_size == len("ready\n") + 300_000
    assert (tmp_path / "counted").read_text() == "x"


def test_ctrl_c_on_a_terminal_reaches_a_command_once(tmp_path: Path) -> None:
    script = ON_A_TERMINAL.format(command=str(chatty(tmp_path, "INT")), log=str(tmp_path / "a.log"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    said = b""
    with at_most(20), suppress(OSError):  # what the end of a pseudo-terminal looks like
        while block := os.read(terminal, 1 << 16):
            if b"ready" in block and b"ready" not in said:
                os.write(terminal, b"\x03")
            said += block
    os.close(terminal)
    os.waitpid(pid, 0)
    assert said.rstrip().endswith(b"interrupted")
    assert (tmp_path / "counted").read_text() == "x"
    assert b"told once more" not in said, "the second would end it before it has put things in order"
