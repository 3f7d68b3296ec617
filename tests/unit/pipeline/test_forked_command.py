"""The server that forks commands: the threads it gives them, and signals that come to the whole process group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from diffreid_lightning.pipeline import forked_command
from diffreid_lightning.pipeline.forked_command import _set_threads, _unblock, fork_server, start_server

ROOT = Path(__file__).parents[3]


def report(threads: str, writer: Connection) -> None:
    """Be a command: tell the number of threads, before and after it is set, and wait for a signal."""
    import torch

    _unblock()
    found = torch.get_num_threads()
    _set_threads(threads)
    writer.send([found, torch.get_num_threads()])
    time.sleep(60)


def serve() -> None:
    """Print what two commands of a server for two threads tell, of which the second wants one, and how they end."""
    forked_command._PRELOADED = ("torch",)
    os.environ.pop("OMP_NUM_THREADS", None)
    start_server("2")
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    said = []
    for threads in ("2", "1"):
        reader, writer = fork_server().Pipe(duplex=False)
        process = fork_server().Process(target=report, args=(threads, writer))
        process.start()
        said.append(reader.recv())
        os.kill(server, signal.SIGTERM)
        process.terminate()
        process.join()
        said[-1].append(process.exitcode)
    print(json.dumps([*said, os.environ.get("OMP_NUM_THREADS")]))


@pytest.mark.skipif(sys.platform != "linux", reason="commands are forked under Linux alone")
def test_commands_have_their_threads_and_the_server_outlives_a_signal_to_all() -> None:
    script = f"from {__name__} import serve; serve()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [[2, 2, -signal.SIGTERM], [2, 1, -signal.SIGTERM], None]


def test_a_changed_file_of_the_package_ends_the_use_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forked_command.serves_present_code(), "no server, or one with this code"
    monkeypatch.setattr(forked_command, "_served", forked_command._code_stamp())
    assert forked_command.serves_present_code()
    monkeypatch.setattr(forked_command, "_served", 0)
    assert not forked_command.serves_present_code()


@pytest.mark.skipif(sys.platform != "linux", reason="commands are forked under Linux alone")
def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    """A script that starts a command at its top level writes its line once."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "print('begun', flush=True)\n"
        "from diffreid_lightning.pipeline import forked_command\n"
        "forked_command._PRELOADED = (forked_command.__name__,)\n"
        "out = os.open('out.txt', os.O_CREAT | os.O_WRONLY)\n"
        "command = forked_command.ForkedCommand(['--version'], {**os.environ, 'OMP_NUM_THREADS': '1'}, out, None)\n"
        "while command.poll() is None: time.sleep(0.05)\n"
        "print(command.poll(), Path('out.txt').read_text()[:18])\n",
        encoding="utf-8",
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[0] == "begun" and ended.stdout.count("begun") == 1
    assert "0 diffreid_lightning" in ended.stdout
