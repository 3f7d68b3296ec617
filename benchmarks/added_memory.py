"""Measure the growth of a process's memory, as Linux counts it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

GIB = 1 << 30


def kernel_bytes(file: str, field: str) -> int | None:
    """Read a memory figure from a file under /proc, where the system has it."""
    path = Path("/proc", file)
    if not path.exists():
        return None
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


class AddedMemory:
    """The largest growth of this process's resident set from now on; None where the system does not say (not Linux)."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # pages freed by the set-up would hide the growth
            if trim is not None:
                trim(0)
        self._before = kernel_bytes("self/status", "VmRSS")
        if self._before is not None:
            Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark afresh

    @property
    def gib(self) -> float | None:
        """The growth so far, in GiB."""
        if self._before is None:
            return None
        return ((kernel_bytes("self/status", "VmHWM") or self._before) - self._before) / GIB
