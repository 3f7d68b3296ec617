"""Write a backbone as a timm folder that stock timm opens, with what timm does not record beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import diffreid_lightning
from diffreid_lightning.backbones.architectures import BASES
from diffreid_lightning.backbones.backbone import Backbone
from diffreid_lightning.backbones.heads import BNNeck
from diffreid_lightning.backbones.timm_folder import (
    CONFIG_FILE,
    GEM_EXPONENT_KEY,
    HEAD_FILE,
    NECK_PREFIX,
    WEIGHTS_FILE,
)
from diffreid_lightning.errors import translate_disk_errors
from diffreid_lightning.paths import user_path
from diffreid_lightning.run_summary import PROVENANCE_FILE
from diffreid_lightning.storage.atomic import refuse_foreign, replace_folder
from diffreid_lightning.storage.json_notes import write_json

# Facts about the weights timm distributes under the architecture's name; they are not true of these.
_NOT_OURS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")


def save_backbone(
    backbone: Backbone, folder: str | Path, *, provenance: Mapping[str, object], neck: BNNeck | None = None
) -> Path:
    """Write a backbone as a timm folder, replacing an earlier export whole or not at all.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens it, an architecture of this package after an import
    of what ``registered_by`` in ``provenance.json`` names. timm rebuilds the architecture with its own last stride and
    pooling, so its features differ where these do; ``init_from`` applies the recorded ones again, from
    ``provenance.json``, and so can stock timm: ``edits`` are attributes of its layers to set, ``pooled_axes`` the axes
    of ``forward_features(...)[:, prefix_tokens:]`` to pool over (None: ``forward_head(..., pre_logits=True)``), by the
    mean or, with ``gem_exponent`` p, by the generalized mean. Under several processes call it on one of them.

    Args:
        backbone: the backbone; its device and mode do not matter and are left alone.
        folder: the folder to write. An earlier export there is replaced; its parent is made if need be.
        provenance: what is to be known about the training: recipe, sources, hashes of manifests. JSON values.
        neck: the batch-norm neck, saved in ``reid_head.safetensors`` beside the exponent of the GeM pooling.

    Returns:
        The folder.

    Raises:
        UserError: ``folder`` holds something that is not an export.
        RunError: the folder cannot be written; the earlier export, if any, is still there.
    """
    folder = user_path(folder)
    refuse_other_content(folder)
    record = _record(backbone, provenance)
    with (
        translate_disk_errors(
            f"The backbone cannot be saved in {folder}.",
            "Check the free space and the permissions there. What the folder held before is still there.",
        ),
        replace_folder(folder) as partial,
    ):
        _write_model(backbone, partial)
        _write_head(backbone, neck, partial)
        write_json(partial / PROVENANCE_FILE, record)
    return folder


def refuse_other_content(folder: Path) -> None:
    """Refuse a folder that holds more than an exported backbone.

    Raises:
        UserError: it does.
    """
    marks = [CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE]
    remedy = "Give another folder, or remove this one yourself."
    refuse_foreign(folder, marks, "a backbone", remedy, (*marks, HEAD_FILE, "README.md"))


def _record(backbone: Backbone, provenance: Mapping[str, object]) -> dict[str, Any]:
    mean, std = backbone.normalization
    return {
        "package": "diffreid_lightning",
        "package_version": diffreid_lightning.__version__,
        "architecture": backbone.architecture,
        "registered_by": registered_by(backbone),
        "num_features": backbone.num_features,
        "image_size": backbone.image_size,
        "last_stride": backbone.last_stride,
        "pooling": backbone.pooling,
        "variant": backbone.variant,
        # What stock timm needs for the same features.
        "edits": backbone.edits,
        "pooled_axes": backbone.pooled_axes,
        "prefix_tokens": backbone.prefix_tokens,
        "gem_exponent": None if backbone.pool is None else float(backbone.pool.p.detach()),
        "mean": mean,
        "std": std,
        "training": dict(provenance),
    }


def registered_by(backbone: Backbone) -> str | None:
    """Return the package whose import makes the architecture known to timm; None for timm's own."""
    return "diffreid_lightning.backbones" if backbone.architecture in BASES else None


def _write_model(backbone: Backbone, folder: Path) -> None:
    mean, std = backbone.normalization
    # safetensors takes packed tensors only, and a network in training may lie in channels-last order.
    packed = copy.deepcopy(backbone.model).cpu().to(memory_format=torch.contiguous_format)
    save_for_hf(
        packed,
        folder,
        model_config={"pretrained_cfg": dict.fromkeys(_NOT_OURS)},
        safe_serialization=True,
        # Re-ID images are resized to the whole input, neither cropped nor padded.
        data_config={
            "input_size": (3, *backbone.image_size),
            "mean": mean,
            "std": std,
            "crop_pct": 1.0,
            "crop_mode": "squash",
        },
    )


def _write_head(backbone: Backbone, neck: BNNeck | None, folder: Path) -> None:
    tensors = {} if backbone.pool is None else {GEM_EXPONENT_KEY: backbone.pool.p.detach().cpu()}
    if neck is not None:
        tensors |= {f"{NECK_PREFIX}{name}": tensor.detach().cpu() for name, tensor in neck.state_dict().items()}
    if tensors:
        save_file(tensors, folder / HEAD_FILE, metadata={"format": "pt"})
