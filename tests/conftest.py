"""Every test process computes on one thread: threads of pytest-xdist's workers would wait for each other.

The tests are about the numbers of a CPU. Where there is a GPU it is hidden from them, unless the marker is asked for:
``-m gpu``.
"""

import os
import signal
from collections.abc import Iterator

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
