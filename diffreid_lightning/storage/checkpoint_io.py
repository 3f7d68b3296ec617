"""Atomic writing and checked reading of Lightning checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.storage.json_notes import mismatch

#: Content of every Lightning checkpoint.
_FORM = {"state_dict": {str: Tensor}, "pytorch-lightning_version": str, "epoch": int, "global_step": int}

_EXTRA_STATE = "_extra_state"  # torch's name for it


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint to a temporary file beside it, flush it to disk, then rename it; check it when reading.

    Lightning's own writer stages the file in the system's temporary folder. If that is another disk, it copies the file
    over the previous checkpoint, and a full disk or a kill at that moment loses both. Remote paths (``s3://``...) use
    Lightning's writer.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            OSError: the disk failed (full, read-only, over quota); ``path`` is unchanged.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replace_file(target, durable=True) as staged:
                staged.write_bytes(buffer.getbuffer())
        except OSError as error:
            error.filename = error.filename or str(target)
            raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read and check a checkpoint.

        Raises:
            UserError: the file is damaged, holds more than tensors and plain values, or is not a Lightning checkpoint.
        """
        remedy = (
            "give another checkpoint; to use weights of another project: python -m diffreid_lightning convert --help"
        )
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # unpickling and zip reading raise any type
            raise UserError(
                f"The checkpoint {path} cannot be read.",
                looked_for="tensors and plain values, written by torch.save",
                found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                remedy=remedy,
            ) from error
        wrong = describe_mismatch(checkpoint)
        if wrong is not None:
            raise UserError(
                f"{path} is not a checkpoint of a run.",
                looked_for=f"{', '.join(_FORM)}, written by Lightning",
                found=wrong,
                remedy=remedy,
            )
        return checkpoint


def describe_mismatch(checkpoint: Any) -> str | None:
    """Describe where the content of a file differs from a Lightning checkpoint; None if it does not."""
    wrong = mismatch(_drop_extra_states(checkpoint), _FORM)
    if wrong is None and "callbacks" in checkpoint:
        wrong = mismatch(checkpoint["callbacks"], {str: dict}, "callbacks")
    return wrong


def _drop_extra_states(checkpoint: Any) -> Any:
    """Drop the modules' extra states from the weights, which may hold any type (``get_extra_state``)."""
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        return checkpoint
    tensors = {name: value for name, value in weights.items() if not str(name).endswith(_EXTRA_STATE)}
    return {**checkpoint, "state_dict": tensors}
