"""Find and load LoRA files in the format of diffusers."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from diffreid_lightning.errors import UserError, first_line
from diffreid_lightning.paths import not_a_file, user_path
from diffreid_lightning.storage.hub import hub_file, is_hub_id

LORA_FILE = "pytorch_lora_weights.safetensors"
_DOWN = re.compile(r"\.lora_A\.|[._]lora[._]down\.|\.lora_linear_layer\.down\.")  # in all layouts, one per layer


def locate_lora(lora: str) -> Path:
    """Find the file of a LoRA; download one of the hub that is not cached.

    Args:
        lora: a ``.safetensors`` file, a folder with ``pytorch_lora_weights.safetensors``, or a hub id
            (``owner/name``, optionally ``@revision``) of a repository with that file. A local path has priority.

    Raises:
        UserError: there is none.
    """
    path = user_path(lora)
    if not path.exists() and is_hub_id(lora):
        return hub_file(lora, LORA_FILE, "give a local copy: the .safetensors file or its folder")
    file = path / LORA_FILE if path.is_dir() else path
    if (found := not_a_file(file)) is not None or file.suffix != ".safetensors":
        raise UserError(
            f"There is no LoRA at {lora}",
            looked_for=f"a .safetensors file, a folder with {LORA_FILE}, or a hub id (owner/name)",
            found=found or f"a file {file.suffix or 'without suffix'}",
            remedy="give one of these; of a personalized model FOLDER it is FOLDER/lora",
        )
    return file


def load_lora(pipeline: Any, file: Path) -> None:
    """Load a LoRA into a pipeline without one, as its active adapter.

    Raises:
        UserError: the file is damaged, or not a LoRA of this pipeline.
    """
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
        reason = _describe_unloaded(pipeline, file)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = first_line(error)
    if reason is not None:
        raise UserError(
            f"A LoRA cannot be used: {file}",
            looked_for="a LoRA of the base model, in diffusers' format",
            found=reason,
            remedy="give one for the same architecture, or export or download the file again",
        )


def _describe_unloaded(pipeline: Any, file: Path) -> str | None:
    """Say how many layers of a file the loader left out, which it does without an error; None for none."""
    with safe_open(file, "pt") as opened:
        wanted = sum(bool(_DOWN.search(name)) for name in opened.keys())  # noqa: SIM118
    networks = (part for part in pipeline.components.values() if isinstance(part, nn.Module))
    layers = (layer for network in networks for layer in network.modules() if isinstance(layer, BaseTunerLayer))
    loaded = sum(bool(len(getattr(layer, "lora_A", ()))) for layer in layers)
    return None if 0 < wanted == loaded else f"{loaded} of its {wanted} layers are in the pipeline"


def merge_lora(pipeline: Any) -> Any:
    """Merge a pipeline's LoRA, if it has one, into its weights; return the pipeline."""
    if pipeline.get_list_adapters():
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    return pipeline


def stack_loras(pipeline: Any, files: list[Path], content_hash: str) -> str:
    """Merge LoRAs into a pipeline's weights, one after another; their updates add up.

    Args:
        pipeline: changed in place.
        files: of the LoRAs.
        content_hash: of the pipeline.

    Returns:
        The content hash of the result: the same one where there is no LoRA.

    Raises:
        UserError: a file is damaged, or not a LoRA of this pipeline.
    """
    merge_lora(pipeline)
    for file in files:
        load_lora(pipeline, file)
        merge_lora(pipeline)
        content_hash = hashlib.sha256(content_hash.encode() + file.read_bytes()).hexdigest()
    return content_hash
