"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from diffreid_lightning.errors import UserError
from diffreid_lightning.storage.atomic import replacing_file
from diffreid_lightning.storage.json_notes import mismatch

#: What every checkpoint of Lightning holds, whatever it is loaded for.
_FORM = {"state_dict": {str: Tensor}, "pytorch-lightning_version": str, "epoch": int, "global_step": int}

_EXTRA_STATE = "_extra_state"  # how torch names it


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its final name, flush it to the disk, then rename it.

    Lightning's own writer stages the file in the system's temporary folder and, where that is another disk, copies it
    over the previous checkpoint: a full disk or a kill at that moment loses both. Here the previous one stays until
    the new one is complete. Remote paths (``s3://``...) keep Lightning's way. What is read is checked for what
    Lightning needs of it.
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

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, as :class:`TorchCheckpointIO` does.

        Raises:
            UserError: the file is damaged, holds more than tensors and plain values, or is no checkpoint of Lightning.
        """
        remedy = "name another checkpoint; of another project's weights: python -m diffreid_lightning convert --help"
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # the readers of pickles and archives raise what they like
            raise UserError(
                f"The checkpoint {path} cannot be read.",
                looked_for="tensors and plain values, as torch.save writes them",
                found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                remedy=remedy,
            ) from error
        wrong = mismatch(_without_extra_states(checkpoint), _FORM)
        if wrong is None and "callbacks" in checkpoint:
            wrong = mismatch(checkpoint["callbacks"], {str: dict}, "callbacks")
        if wrong is not None:
            raise UserError(
                f"{path} is not a checkpoint of a run.",
                looked_for=f"{', '.join(_FORM)}, as Lightning writes them",
                found=wrong,
                remedy=remedy,
            )
        return checkpoint


def _without_extra_states(checkpoint: Any) -> Any:
    """Leave out of the weights what modules keep beside their tensors, which may be anything (``get_extra_state``)."""
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        return checkpoint
    tensors = {name: value for name, value in weights.items() if not str(name).endswith(_EXTRA_STATE)}
    return {**checkpoint, "state_dict": tensors}
