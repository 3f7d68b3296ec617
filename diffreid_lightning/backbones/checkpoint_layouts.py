"""Recognize other Re-ID projects' checkpoints: how each wraps a network's tensors, and the network around them.

The normalization is the one that the authors fine-tune these weights with; last stride and pooling are those of the
network that the weights were trained in:

* LUPerson (arXiv 2012.03753): its own statistics, 89.896, 79.200, 80.073 and 63.872, 64.305, 63.839 of 255; MoCo on
  torchvision's ResNet, so stride 2 and average pooling.
* LUPerson-NL (arXiv 2203.16533): the statistics of its own images; else as LUPerson.
* CION (arXiv 2409.18569): ImageNet's; ResNets with last stride 1 and average pooling.
* torchreid (arXiv 1910.10093): ImageNet's; stride 2 and average pooling, stride 1 in its ``resnet50_fc512``.
* fast-reid (arXiv 2006.02631): as the checkpoint's own ``pixel_mean`` and ``pixel_std`` say, else ImageNet's; stride
  1, average pooling or GeM with the exponent that the checkpoint holds; ResNets whose stem pools without padding.
* reid-strong-baseline (arXiv 1903.07071): ImageNet's; stride 1, average pooling.
* Cluster-Contrast (arXiv 2103.11568): ImageNet's; stride 1, GeM or average pooling.
* TransReID (arXiv 2102.04378) and TransReID-SSL (arXiv 2111.12084): 0.5; the class token.
* SOLIDER (arXiv 2303.17602): 0.5; average pooling, and the semantic weight 0.2 of its Re-ID recipes.
* ``timm``: a bare state dict of timm or torchvision: the normalization that timm has for the name, stride 2 and the
  architecture's own pooling.
* ``diffreid``: a checkpoint of this package's own training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from diffreid_lightning.backbones.key_conversion import (
    rename_cluster_contrast,
    rename_swin,
    select_global_branch,
    take_own_traits,
)
from diffreid_lightning.backbones.timm_folder import RGB, Checkpoint, Stride, WeightTraits

Tensors = Mapping[str, Tensor]

_IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[RGB, RGB] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_WRAPPERS = ("base.", "backbone.", "encoder_q.", "image_encoder.", "student.", "teacher.")
_SOLIDER_NAMES = r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\."
_HEADS = ("fc.", "classifier", "head.", "bottleneck")


def _keep(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    return checkpoint


@dataclass(frozen=True)
class ForeignForm:
    """Layout of one project's checkpoints.

    Args:
        traits: what the project's network has around the weights.
        containers: keys that hold the state dict inside the file; the first that is there wins.
        prefixes: what stands before the network's own names, ``""`` for nothing; the first that is there wins.
        heads: beginnings of names, of what is not the backbone.
        has: pattern that the name of some tensor must match.
        lacks: pattern that the name of no tensor may match.
        average: what stands before the names of a moving average that is evaluated in place of the network.
        parts: the file holds more than the network and its heads: all that lacks the prefix is something else.
        rewrite: completes the checkpoint from all the tensors of the file: other names, traits that depend on it.
    """

    traits: WeightTraits
    containers: tuple[str, ...] = ("state_dict", "model")
    prefixes: tuple[str, ...] = ("",)
    heads: tuple[str, ...] = _HEADS
    has: str | None = None
    lacks: str | None = _SOLIDER_NAMES
    average: str | None = None
    parts: bool = False
    rewrite: Callable[[Checkpoint, Tensors], Checkpoint] = _keep

    def unwrap(self, content: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the tensors by name, the marks of DDP removed; None where there are none in this form."""
        inner = next((content[key] for key in self.containers if isinstance(content.get(key), Mapping)), content)
        tensors = {_bare(str(name)): value for name, value in inner.items() if isinstance(value, Tensor)}
        if self.average is not None and any(name.startswith(self.average) for name in tensors):
            start = len(self.average)
            tensors = {name[start:]: value for name, value in tensors.items() if name.startswith(self.average)}
        if not tensors or self._prefix(tensors) is None:
            return None
        if self.has is not None and not any(re.search(self.has, name) for name in tensors):
            return None
        if self.lacks is not None and any(re.search(self.lacks, name) for name in tensors):
            return None
        return tensors

    def open(self, tensors: Tensors, source: str) -> Checkpoint:
        """Take the network out of what :meth:`unwrap` returned.

        Args:
            tensors: the tensors of the file by name.
            source: where they come from, in words.
        """
        prefix = self._prefix(tensors) or ""
        network, dropped = {}, []
        for name, tensor in tensors.items():
            own = name.removeprefix(prefix)
            elsewhere = self.parts and not name.startswith(prefix)
            if elsewhere or name.startswith(self.heads) or own.startswith(self.heads):
                dropped.append(name)
            else:
                network[own] = tensor
        return self.rewrite(Checkpoint(source, network, self.traits, dropped_head=tuple(dropped)), tensors)

    def _prefix(self, tensors: Tensors) -> str | None:
        for prefix in self.prefixes:
            if prefix and any(name.startswith(prefix) for name in tensors):
                return prefix
        bare = "" in self.prefixes and not any(name.startswith(_WRAPPERS) for name in tensors)
        return "" if bare else None


def _bare(name: str) -> str:
    return re.sub(r"(^|\.)module\.", r"\1", name)


def _torchreid(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    last_stride: Stride = 1 if "fc.0.weight" in tensors else 2
    return replace(checkpoint, traits=replace(checkpoint.traits, last_stride=last_stride))


def _fastreid(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    traits = checkpoint.traits
    if any(name.startswith("layer1.0.conv1.") for name in checkpoint.tensors):
        traits = replace(traits, variant="ceil_stem")
    elif any(name.startswith("blocks.0.attn.") for name in checkpoint.tensors):
        traits = replace(traits, last_stride=None, pooling="native")
    pixels = [tensors.get(name) for name in ("pixel_mean", "pixel_std")]
    mean, std = (None if p is None or p.numel() != 3 else _unit(p) for p in pixels)
    if mean is not None and std is not None:
        traits = replace(traits, mean=mean, std=std)
    return _with_gem(replace(checkpoint, traits=traits), tensors.get("heads.pool_layer.p"))


def _cluster_contrast(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    renamed = rename_cluster_contrast(checkpoint.tensors)
    return _with_gem(replace(checkpoint, tensors=renamed), tensors.get("gap.p"))


def _with_gem(checkpoint: Checkpoint, exponent: Tensor | None) -> Checkpoint:
    if exponent is None:
        return checkpoint
    traits = replace(checkpoint.traits, pooling="gem")
    return replace(checkpoint, traits=traits, gem_exponent=exponent.reshape(1).float())


def _cion(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    names = checkpoint.tensors
    if any(name.startswith("layer4.") for name in names):
        return replace(checkpoint, traits=replace(checkpoint.traits, last_stride=1, pooling="avg"))
    if any(re.match(r"layers\.0\.blocks\.0\.attn\.relative_position", name) for name in names):
        return rename_swin(replace(checkpoint, traits=replace(checkpoint.traits, pooling="avg")), tensors)
    return replace(checkpoint, traits=replace(checkpoint.traits, pooling="native"))


def _unit(pixels: Tensor) -> RGB:
    # Import late: the backbone's module stands on this one's neighbors.
    from diffreid_lightning.backbones.backbone import decimals

    red, green, blue = (round(value / 255, 9) for value in decimals(pixels))  # of 57.12, not of its float32
    return red, green, blue


_MOCO = WeightTraits(last_stride=2, pooling="avg")
_MOCO_HEADS = (*_HEADS, "fc1.", "fc2.", "embed_fc.", "encoder_k.", "queue", "label_queue", "prototypes")

FORMS: Mapping[str, ForeignForm] = {
    "luperson": ForeignForm(
        replace(
            _MOCO,
            mean=(89.896 / 255, 79.200 / 255, 80.073 / 255),
            std=(63.872 / 255, 64.305 / 255, 63.839 / 255),
        ),
        prefixes=("encoder_q.", ""),
        heads=_MOCO_HEADS,
    ),
    "luperson-nl": ForeignForm(
        replace(_MOCO, mean=(0.3452, 0.3070, 0.3114), std=(0.2633, 0.2500, 0.2480)),
        prefixes=("encoder_q.", ""),
        heads=_MOCO_HEADS,
    ),
    "cion": ForeignForm(
        WeightTraits(*_IMAGENET),
        containers=("teacher", "state_dict", "model"),
        prefixes=("backbone.", ""),
        lacks=rf"^heads\.|^backbone\.model\.|{_SOLIDER_NAMES}",
        rewrite=_cion,
    ),
    "torchreid": ForeignForm(WeightTraits(*_IMAGENET, pooling="avg"), rewrite=_torchreid),
    "fastreid": ForeignForm(
        WeightTraits(*_IMAGENET, last_stride=1, pooling="avg"),
        containers=("model", "state_dict"),
        prefixes=("backbone.",),
        heads=("heads.", "pixel_mean", "pixel_std"),
        lacks=rf"^head\.|^backbone\.model\.|{_SOLIDER_NAMES}",
        rewrite=_fastreid,
    ),
    "reid-strong-baseline": ForeignForm(
        WeightTraits(*_IMAGENET, last_stride=1, pooling="avg"), prefixes=("base.",), has=r"^base\.(conv1|layer1)\."
    ),
    "cluster-contrast": ForeignForm(
        WeightTraits(*_IMAGENET, last_stride=1, pooling="avg"),
        prefixes=("base.",),
        heads=(*_HEADS, "feat.", "feat_bn.", "gap."),
        has=r"^base\.4\.0\.",
        rewrite=_cluster_contrast,
    ),
    "transreid": ForeignForm(
        WeightTraits(*_HALF, pooling="native"),
        containers=("teacher", "model", "state_dict"),
        prefixes=("base.", "backbone.", ""),
        has=r"^(base\.|backbone\.)?blocks\.0\.",
        rewrite=select_global_branch,
    ),
    "solider": ForeignForm(
        WeightTraits(*_HALF, pooling="avg"),
        containers=("teacher", "state_dict", "model"),
        prefixes=("base.", "backbone.", ""),
        has=_SOLIDER_NAMES,
        lacks=None,
        rewrite=rename_swin,
    ),
    "timm": ForeignForm(WeightTraits(last_stride=2, pooling="native"), containers=("state_dict", "model")),
    "diffreid": ForeignForm(
        WeightTraits(),
        containers=("state_dict",),
        prefixes=("backbone.model.",),
        average="teacher.",  # of MutualMeanTeaching
        parts=True,
        has=r"^backbone\.(mean|_extra_state)$",
        rewrite=take_own_traits,
    ),
}


def recognize_forms(content: Mapping[str, Any]) -> list[str]:
    """List the forms that a checkpoint's content can be read in; several where it does not tell them apart."""
    return [name for name, form in FORMS.items() if form.unwrap(content) is not None]
