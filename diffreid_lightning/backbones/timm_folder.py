"""Read a timm folder: ``config.json``, ``model.safetensors`` and what this package adds beside them.

Weights of other sources are held in the same form, :class:`Checkpoint`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffreid_lightning.backbones.network_variants import is_variant
from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import not_a_file, user_path
from diffreid_lightning.run_summary import PROVENANCE_FILE
from diffreid_lightning.storage.atomic import describe_existing
from diffreid_lightning.storage.json_notes import damaged_error, read_json
from diffreid_lightning.storage.torch_file import describe_non_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_FILE = "reid_head.safetensors"
GEM_EXPONENT_KEY = "pool.p"
NECK_PREFIX = "neck."

Pooling: TypeAlias = Literal["gem", "avg", "native"]
Stride: TypeAlias = Literal[1, 2]
RGB: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class WeightTraits:
    """Properties that weights expect of their network; None if the source does not state them.

    Args:
        mean: per-channel mean that inputs in [0, 1] were normalized with.
        std: per-channel deviation that inputs in [0, 1] were normalized with.
        last_stride: stride of the last downsampling they were trained with.
        pooling: pooling they were trained with.
        variant: variation of the architecture they were trained in (:mod:`.network_variants`).
    """

    mean: RGB | None = None
    std: RGB | None = None
    last_stride: Stride | None = None
    pooling: Pooling | None = None
    variant: str | None = None


@dataclass(frozen=True)
class TimmConfig:
    """The parts of timm's ``config.json`` that rebuild a network.

    Args:
        architecture: registry name of the architecture.
        pretrained_cfg: timm's description of the weights: mean, std, input size, name of the classifier.
        model_args: arguments the model was built with.
    """

    architecture: str
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels the weights were trained at, None where the file does not say."""
        size = self.model_args.get("img_size") or (self.pretrained_cfg.get("input_size") or ())[-2:]
        if not size:
            return None
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


@dataclass(frozen=True)
class Checkpoint:
    """Weights before they are compared with a backbone.

    Args:
        source: where they come from, in words.
        tensors: the weights by name.
        traits: what they expect of the network around them.
        config: the timm configuration they come with, None for a bare file.
        gem_exponent: (1,) exponent of the pooling they were trained with.
        neck: state of the batch-norm neck they were trained with, empty where there is none.
        dropped_head: names of tensors already left out of ``tensors``: a classifier, a second network beside the first.
        image_size: (height, width) in pixels they were trained at, where no configuration says it.
    """

    source: str
    tensors: Mapping[str, Tensor]
    traits: WeightTraits = field(default_factory=WeightTraits)
    config: TimmConfig | None = None
    gem_exponent: Tensor | None = None
    neck: Mapping[str, Tensor] = field(default_factory=dict)
    dropped_head: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class TimmFolder:
    """An opened timm folder.

    Args:
        path: the folder.
        config: its ``config.json``.
        provenance: its ``provenance.json``, empty where the folder was not written by this package.
    """

    path: Path
    config: TimmConfig
    provenance: Mapping[str, Any]


def traits_of(config: TimmConfig, provenance: Mapping[str, Any] | None = None) -> WeightTraits:
    """Collect what a config and a provenance record say about the network around their weights."""
    provenance = provenance or {}
    stride, pooling, variant = (provenance.get(key) for key in ("last_stride", "pooling", "variant"))
    return WeightTraits(
        mean=_rgb(config.pretrained_cfg.get("mean")),
        std=_rgb(config.pretrained_cfg.get("std")),
        last_stride=stride if stride in get_args(Stride) else None,
        pooling=pooling if pooling in get_args(Pooling) else None,
        variant=variant if is_variant(variant) else None,
    )


def read_timm_folder(path: str | Path) -> TimmFolder:
    """Open a timm folder.

    Args:
        path: folder with ``config.json`` and ``model.safetensors``.

    Returns:
        The opened folder; the weights are not read yet.

    Raises:
        UserError: the folder or one of the two files is missing or unreadable.
    """
    folder = user_path(path)
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a timm folder.",
            looked_for=" and ".join(str(folder / name) for name in missing),
            found=describe_existing(folder),
            remedy="Give a folder with config.json and model.safetensors, as a run here or timm's "
            "save_for_hf(..., safe_serialization=True) writes it. Pickled weights (.bin, .pth) are not opened as they "
            "are: python -m diffreid_lightning convert FILE --form timm --backbone NAME --out DIR makes such a folder.",
        )
    provenance = folder / PROVENANCE_FILE
    return TimmFolder(folder, read_timm_config(folder / CONFIG_FILE), _json(provenance) if provenance.is_file() else {})


def read_timm_config(path: Path) -> TimmConfig:
    """Read timm's ``config.json``; in its older, flat form the description of the weights is the file itself.

    Raises:
        UserError: the file is not JSON, names no architecture, or holds values of another type.
    """
    content = _json(path)
    architecture = content.get("architecture")
    if not isinstance(architecture, str):
        raise UserError(
            f"{path} names no architecture.",
            looked_for="the key 'architecture'",
            found=f"the keys {', '.join(content) or '(none)'}",
            remedy="Give a folder that timm or this package wrote.",
        )
    pretrained_cfg, model_args = content.get("pretrained_cfg", content), content.get("model_args", {})
    _check_types(path, pretrained_cfg, model_args)
    return TimmConfig(architecture, pretrained_cfg, model_args)


def _check_types(path: Path, pretrained_cfg: Any, model_args: Any) -> None:
    """Refuse values that the network could not be built or fed with; what is left out or null passes."""
    sections = {"pretrained_cfg": pretrained_cfg, "model_args": model_args}
    wrong = {key: ("an object", value) for key, value in sections.items() if not isinstance(value, dict)}
    if not wrong:
        rules = {
            "mean": ("three numbers", lambda value: _are_numbers(value)),
            "std": ("three numbers above 0", lambda value: _are_numbers(value) and min(value) > 0),
            "input_size": ("[3, height, width]", lambda value: _are_sizes(value, 3)),
            "fixed_input_size": ("true or false", lambda value: isinstance(value, bool)),
            "classifier": ("a name or several", _are_names),
        }
        given = {key: pretrained_cfg.get(key) for key in rules}
        wrong = {key: (rules[key][0], value) for key, value in given.items() if _fails(value, rules[key][1])}
        size = model_args.get("img_size")
        if _fails(size, lambda value: _are_sizes([value], 1) or _are_sizes(value, 2)):
            wrong["img_size"] = ("[height, width]", size)
    if wrong:
        raise UserError(
            f"{path} does not describe a network.",
            looked_for="; ".join(f"{key}: {expected}" for key, (expected, _) in wrong.items()),
            found="; ".join(f"{key}: {json.dumps(value)[:80]}" for key, (_, value) in wrong.items()),
            remedy="Correct the file, or write the folder anew with timm or this package.",
        )


def _fails(value: Any, rule: Callable[[Any], bool]) -> bool:
    return value is not None and not rule(value)


def _are_numbers(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) == 3
    return is_list and all(type(one) in (int, float) and math.isfinite(one) for one in value)


def _are_sizes(value: Any, count: int) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) == count
    return is_list and all(type(one) is int and one > 0 for one in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into the CPU's memory.

    Raises:
        UserError: the file is missing, cut off, or of another kind.
    """
    try:
        if (found := not_a_file(path)) is not None:
            raise OSError(found)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors.",
            found=(path.is_file() and describe_non_weights(path)) or str(error),
            remedy="Fetch, copy or export the file again.",
        ) from error


def _json(path: Path) -> dict[str, Any]:
    remedy = "Write the folder anew, or restore the file."
    mistaken = describe_non_weights(path) if path.is_file() else None
    if mistaken is not None:
        raise damaged_error(path, mistaken, looked_for="a JSON object", remedy=remedy)
    return read_json(path, remedy=remedy)


def _rgb(values: Any) -> RGB | None:
    return None if values is None else (float(values[0]), float(values[1]), float(values[2]))
