"""Files that ``torch.save`` wrote, read as plain data: nothing in them is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|but got <class '([\w.]+)'>")
_ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*m")
_HEAD_BYTES = 512
_NUMBER_CODES = "?bBhHiIlLqQefdgFD"


class NotPlainError(Exception):
    """A file cannot be read as plain data.

    Args:
        obstacle: what is in the way, in words.
        of_class: dotted name of the Python object in the file that would have to be trusted; None where the file
            itself is at fault.
    """

    def __init__(self, obstacle: str, of_class: str | None = None) -> None:
        super().__init__(obstacle)
        self.obstacle = obstacle
        self.of_class = of_class


def read_plain(file: Path, *, mmap: bool = False) -> Any:
    """Read tensors, numbers (NumPy's too), strings and containers from a file; on the CPU.

    Args:
        file: what ``torch.save`` wrote, in the zip form or the older one.
        mmap: leave the tensors' values on the disk until they are needed; only for the zip form.

    Raises:
        NotPlainError: the file is damaged or of another kind, or holds Python objects, which are not unpickled.
    """
    mistaken = mistaken_for(file)
    if mistaken:
        raise NotPlainError(mistaken)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # foreign bytes: any error of the unpickler, the zip reader or torch may come up
        text = _ESCAPE_CODE.sub("", str(error))
        found = _GLOBAL.search(text)
        if found:
            name = found.group(1) or found.group(2)
            raise NotPlainError(f"an object of {name} beside the tensors, which could run code", name) from error
        reason = (text.splitlines() or [""])[0].strip()
        raise NotPlainError(f"a damaged file, or not one of torch.save's ({type(error).__name__}: {reason})") from error


def mistaken_for(file: Path) -> str | None:
    """Name what often lies in the place of weights; None where the file looks like none of it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for weights that were not fetched (git lfs pull fetches them)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, as a download that was refused leaves it"
    return None


def _numpy_scalars() -> list[Any]:
    """List what a pickled NumPy number is made of, under the names of NumPy 1 and 2."""
    construct = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    kinds = {type(np.dtype(code)) for code in _NUMBER_CODES}
    return [*((construct, f"{module}.scalar") for module in modules), np.dtype, *kinds]
