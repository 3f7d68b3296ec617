"""Hash files and tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 20  # bytes read at once


def add_content(digest: hashlib._Hash, file: Path) -> None:
    """Add a file's content to a hash, a block at a time."""
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors, in the order of their names: SHA-256, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
