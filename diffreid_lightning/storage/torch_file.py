"""Read files of ``torch.save`` as plain data, without executing anything in them."""

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
        obstacle: description of the obstacle.
        of_class: dotted name of the Python class that would have to be unpickled; None if the file itself is at fault.
    """

    def __init__(self, obstacle: str, of_class: str | None = None) -> None:
        super().__init__(obstacle)
        self.obstacle = obstacle
        self.of_class = of_class


def read_plain(file: Path, *, mmap: bool = False) -> Any:
    """Read tensors, numbers (NumPy's too), strings and containers from a file to the CPU.

    Args:
        file: a file of ``torch.save``, in the zip format or the older one.
        mmap: memory-map the tensors; only for the zip format.

    Raises:
        NotPlainError: the file is damaged or of another kind, or holds Python objects, which are not unpickled.
    """
    mistaken = describe_non_weights(file)
    if mistaken:
        raise NotPlainError(mistaken)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # the unpickler, the zip reader and torch raise any type on foreign bytes
        text = _ESCAPE_CODE.sub("", str(error))
        found = _GLOBAL.search(text)
        if found:
            name = found.group(1) or found.group(2)
            raise NotPlainError(f"an object of {name} beside the tensors, which could run code", name) from error
        reason = (text.splitlines() or [""])[0].strip()
        raise NotPlainError(f"a damaged file, or not one of torch.save ({type(error).__name__}: {reason})") from error


def describe_non_weights(file: Path) -> str | None:
    """Describe a file that is often found in place of weights; None if it may be weights."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer to weights that were not downloaded (run git lfs pull)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, probably from a refused download"
    return None


def _numpy_scalars() -> list[Any]:
    """List the classes in a pickled NumPy number, by their names in NumPy 1 and 2."""
    construct = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    kinds = {type(np.dtype(code)) for code in _NUMBER_CODES}
    return [*((construct, f"{module}.scalar") for module in modules), np.dtype, *kinds]
