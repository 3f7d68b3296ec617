"""Convert other projects' state-dict keys and tensor layouts to timm's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from timm.models import is_model
from torch import Tensor
from torch.nn import functional

from diffreid_lightning.backbones.architectures.vit_overlap import OverlappingPatchEmbed
from diffreid_lightning.backbones.network_variants import FULL_WINDOWS
from diffreid_lightning.backbones.timm_folder import NECK_PREFIX, Checkpoint, TimmConfig
from diffreid_lightning.errors import UserError

_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_VIT_SIZES = ((256, 128), (384, 128), (256, 256), (224, 224), (384, 192), (384, 384))
_WIDTHS = {384: "small", 768: "base"}
_SEMANTIC_WEIGHT = 0.2  # of SOLIDER's Re-ID recipes


def rename_cluster_contrast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the layers of a ResNet that was taken apart into a sequence of eight."""
    renamed = {}
    for name, tensor in tensors.items():
        index, _, rest = name.partition(".")
        renamed[f"{_SEQUENTIAL.get(index, index)}.{rest}"] = tensor
    return renamed


# TransReID.


def select_global_branch(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Keep the part of a TransReID network that gives its global feature, and find the image size it was made for.

    With the jigsaw branch (JPM) the global feature comes from ``b1``, a copy of the last block and norm that was
    trained in their place.

    Raises:
        UserError: the patches overlap otherwise than those of ``vit_base_patch16_stride12_224``.
    """
    kept, dropped = dict(checkpoint.tensors), list(checkpoint.dropped_head)
    if any(name.startswith("b1.") for name in kept):
        last = max(int(name.split(".")[1]) for name in kept if name.startswith("blocks."))
        stale = [name for name in kept if name.startswith((f"blocks.{last}.", "norm.", "b2."))]
        branch = {name: kept.pop(name) for name in list(kept) if name.startswith("b1.")}
        dropped += stale
        kept = {name: tensor for name, tensor in kept.items() if name not in set(stale)}
        for name, tensor in branch.items():
            kept[name.replace("b1.0.", f"blocks.{last}.").replace("b1.1.", "norm.")] = tensor
    step, size = _patch_grid(kept, checkpoint.source)
    config = checkpoint.config
    width = _WIDTHS.get(kept["pos_embed"].shape[2]) if size else None
    if step == OverlappingPatchEmbed.stride and size and width:
        config = TimmConfig(f"vit_{width}_patch16_stride12_224", {"input_size": (3, *size)})
    return replace(checkpoint, tensors=kept, dropped_head=tuple(dropped), image_size=size, config=config)


def _patch_grid(tensors: Mapping[str, Tensor], source: str) -> tuple[int | None, tuple[int, int] | None]:
    """Tell the pixels between patches and the image size from the number of positions; None where it is unknown."""
    embedding, projection = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if embedding is None or embedding.ndim != 3 or projection is None or projection.ndim != 4:
        return None, None
    patch, count = int(projection.shape[-1]), embedding.shape[1] - 1
    for step in range(patch, patch // 2 - 1, -1):
        for height, width in _VIT_SIZES:
            if ((height - patch) // step + 1) * ((width - patch) // step + 1) != count:
                continue
            if step in (patch, OverlappingPatchEmbed.stride):
                return step, (height, width)
            raise UserError(
                f"The weights at {source} are of a ViT with overlapping patches, which cannot be built here.",
                looked_for=f"a patch every {patch} pixels, or every {OverlappingPatchEmbed.stride}",
                found=f"{count} positions: a patch every {step} pixels of {height}x{width}",
                remedy="use the project's weights with STRIDE_SIZE [16, 16] or [12, 12], or another project's",
            )
    return None, None


# Swin as SOLIDER (by way of mmcv) and CION write it.


def rename_swin(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Turn a Swin transformer that pads its maps to whole windows into timm's names and orders.

    Only the last stage's norm reaches the feature. SOLIDER's semantic control scales and shifts the channels between
    two stages; both are folded into the merging of patches there.
    """
    kept, dropped = {}, list(checkpoint.dropped_head)
    last = max(
        (int(name[4:].split(".")[0]) for name in checkpoint.tensors if re.match(r"norm\d\.", name)), default=None
    )
    for name, tensor in _fold_semantics(checkpoint.tensors).items():
        if re.match(r"semantic_embed_[wb]\.|norm\d\.", name) and not name.startswith(f"norm{last}."):
            dropped.append(name)
        else:
            kept[_swin_name(name, last)] = tensor
    is_unfolded = any(name.startswith("stages.") for name in checkpoint.tensors)
    if is_unfolded:
        kept = {name: _unfolded_order(name, tensor) for name, tensor in kept.items()}
    tables = [tensor for name, tensor in kept.items() if name.endswith("relative_position_bias_table")]
    if tables:
        traits = replace(checkpoint.traits, variant=f"{FULL_WINDOWS}{window_of(tables[0])}")
        checkpoint = replace(checkpoint, traits=traits)
    return replace(checkpoint, tensors=kept, dropped_head=tuple(dropped))


def window_of(table: Tensor) -> int:
    """Return the side of the square window that a table of relative positions, ((2 side - 1)², heads), is for."""
    return (math.isqrt(table.shape[0]) + 1) // 2


def _swin_name(name: str, last: int | None) -> str:
    name = re.sub(rf"^norm{last}\.", "norm.", name)
    name = re.sub(r"^patch_embed\.projection\.", "patch_embed.proj.", name)
    name = re.sub(r"^stages\.", "layers.", name)
    name = name.replace(".attn.w_msa.", ".attn.")
    return name.replace(".ffn.layers.0.0.", ".mlp.fc1.").replace(".ffn.layers.1.", ".mlp.fc2.")


def _unfolded_order(name: str, tensor: Tensor) -> Tensor:
    """Reorder the four merged patches from ``nn.Unfold``'s order (channel first) to Swin's own (patch first)."""
    if not re.match(r"layers\.\d+\.downsample\.", name):
        return tensor
    by_patch = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return by_patch[..., [0, 2, 1, 3], :].flatten(-2).contiguous()


def _fold_semantics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold x → x * scale + shift behind each patch merging into its weight and the bias of its norm.

    The merging has no bias, but fewer outputs than inputs: some change of its norm's bias gives any shift.
    """
    folded = dict(tensors)
    control = torch.tensor([_SEMANTIC_WEIGHT, 1 - _SEMANTIC_WEIGHT], dtype=torch.float64)
    for stage in range(len({name.split(".")[1] for name in tensors if name.startswith("semantic_embed_w.")})):
        reduction, norm = (f"stages.{stage}.downsample.{layer}" for layer in ("reduction.weight", "norm.bias"))
        if reduction not in tensors or norm not in tensors:
            continue  # behind the last stage, where nothing follows
        scale, shift = (
            tensors[f"semantic_embed_{kind}.{stage}.weight"].double() @ control
            + tensors[f"semantic_embed_{kind}.{stage}.bias"].double()
            for kind in "wb"
        )
        weight = functional.softplus(scale)[:, None] * tensors[reduction].double()
        folded[reduction] = weight.float()
        folded[norm] = (tensors[norm].double() + torch.linalg.pinv(weight) @ shift).float()
    return folded


# This package's own checkpoints.


def take_own_traits(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Read normalization, stride, pooling and neck from a checkpoint of this package's own training."""
    # Import late: the backbone's module stands on this one's neighbors.
    from diffreid_lightning.backbones.backbone import decimals, traits_of_state

    traits = checkpoint.traits
    if "backbone._extra_state" in tensors:
        traits = traits_of_state(tensors["backbone._extra_state"])
    if "backbone.mean" in tensors and "backbone.std" in tensors:
        mean, std = decimals(tensors["backbone.mean"]), decimals(tensors["backbone.std"])
        traits = replace(traits, mean=mean, std=std)
    neck = {name.removeprefix(NECK_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(NECK_PREFIX)}
    return replace(checkpoint, traits=traits, gem_exponent=tensors.get("backbone.pool.p"), neck=neck)


def count_blocks(names: Mapping[str, Tensor], stage: str) -> int:
    """Count the blocks ``STAGE.0``, ``STAGE.1``... among names of tensors."""
    found = {int(match.group(1)) for name in names if (match := re.match(rf"{stage}\.(\d+)\.", name))}
    return len(found)


def likely_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the timm architecture that weights are probably of, by their depth and width; None where it is not plain."""
    depths = tuple(count_blocks(tensors, f"layer{stage}") for stage in range(1, 5))
    wide = "layer1.0.conv3.weight" in tensors
    resnets: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18",
        ((3, 4, 6, 3), False): "resnet34",
        ((3, 4, 6, 3), True): "resnet50",
        ((3, 4, 23, 3), True): "resnet101",
        ((3, 8, 36, 3), True): "resnet152",
    }
    kinds = {"layer1.0.bn1.IN.weight": "_ibn_a", "NL_2.0.g.weight": "_nl", "branch2.layer4.0.conv1.weight": "_mgn"}
    kind = "".join(suffix for name, suffix in kinds.items() if name in tensors)
    projection = tensors.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        conv = tensors.get("conv1.weight")
        is_plain = conv is not None and tuple(conv.shape) == (64, 3, 7, 7)
        name = f"{resnets.get((depths, wide))}{kind}"
        return name if is_plain and is_model(name) else None
    width, patch = projection.shape[0], projection.shape[-1]
    if count_blocks(tensors, "blocks"):
        size = {192: "tiny", 384: "small", 768: "base", 1024: "large"}.get(width)
        return f"vit_{size}_patch{patch}_224" if size and patch in (14, 16, 32) else None
    stages = (width, count_blocks(tensors, r"layers\.2\.blocks"))
    tables = [tensor for name, tensor in tensors.items() if name.endswith("relative_position_bias_table")]
    window = window_of(tables[0]) if tables else 0
    swin = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}.get(stages)
    return f"swin_{swin}_patch4_window7_224" if swin and window in (7, 8) else None
