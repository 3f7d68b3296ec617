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
