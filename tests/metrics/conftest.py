from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Let a test choose torch's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
