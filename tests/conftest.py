"""Every test process computes on one thread: threads of pytest-xdist's workers would wait for each other.

The tests are about the numbers of a CPU. Where there is a GPU it is hidden from them, unless the marker is asked for:
``-m gpu``.
"""

import gc
import getpass
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from multiprocessing import util
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; commands that tests start inherit it


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU, and let Ctrl-C be heard, which a shell has its background jobs ignore: tests are about it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = config.getoption("markexpr", "")
    if "gpu" not in wanted or "not gpu" in wanted:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(config, "workerinput"):
        from tests.fixtures.command_process import fork_from

        alive = os.pipe()[1]  # a server watches such a pipe of the process that has started it
        fork_from({**config.workerinput["fork_server"], "_forkserver_alive_fd": alive})
    else:
        _keep_temporary_files_together()


def _keep_temporary_files_together() -> None:
    """Remove in the end what commands leave for their users to read, and W&B wherever it is not closed.

    Workers and commands inherit the folder; ``tmp_path`` and compiled code stay where they are without it.
    """
    usual, folder = tempfile.gettempdir(), tempfile.mkdtemp(prefix="diffreid-tests-")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{usual}/torchinductor_{getpass.getuser()}")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # The last of multiprocessing's own finalizers, which remove folders in it.
    util.Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-1000)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let pytest-xdist's workers share the server that commands are forked from: its imports take their time."""
    from tests.fixtures.command_process import serve

    node.workerinput["fork_server"] = serve()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the imports make out of garbage collections, each of which would look at a million objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000)


@pytest.fixture(scope="session", autouse=True)
def quick_glances() -> Iterator[None]:
    """Let a process find a lock held in less than the second that it looks for in use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffreid_lightning.storage.locks._GLANCE", 0.2)
        yield


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Let a test choose torch's number of threads."""
    import torch  # not above: the variable comes first

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Fixtures of a session are made once for the modules that see one definition of them, so these have theirs here.


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of few words."""
    from tests.fixtures.diffusion import write_tokenizer

    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> dict[str, Path]:
    """A random checkpoint of each layout, by its name; no test changes one."""
    from tests.fixtures.checkpoint_layouts import Checkpoints

    return Checkpoints(tmp_path_factory.mktemp("checkpoints"), tokenizer_folder)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioned manifest of four people to train on; no test changes it."""
    from tests.fixtures.checkpoint_layouts import write_people

    return write_people(tmp_path_factory.mktemp("people"))
