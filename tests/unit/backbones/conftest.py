"""Settings of the network tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(restore_threads: None) -> None:
    """Networks this small lose more to threads waiting for a shared core than they gain from a second one."""
    torch.set_num_threads(1)
