"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffreid_lightning.whole_folder import replacing_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its final name, flush it to the disk, then rename it.

    Lightning's own writer stages the file in the system's temporary folder and, where that is another disk, copies it
    over the previous checkpoint: a full disk or a kill at that moment loses both. Here the previous one stays until
    the new one is complete. Remote paths (``s3://``...) keep Lightning's way.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            OSError: the disk refused (full, read-only, over quota); ``path`` is as it was before.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing_file(target, durable=True) as staged:
                staged.write_bytes(buffer.getbuffer())
        except OSError as error:
            error.filename = error.filename or str(target)
            raise
