"""Build a headless timm model by name, for any image size, with errors a user can act on."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, resolve_pretrained_cfg, split_model_name_tag
from torch import Tensor, nn

from diffreid_lightning.backbones.architectures import BASES
from diffreid_lightning.backbones.timm_folder import CONFIG_FILE, TimmConfig, read_timm_config, read_timm_folder
from diffreid_lightning.errors import UserError, shorten
from diffreid_lightning.storage.hub import hub_file

LOCAL_SCHEME = "local-dir:"
HUB_SCHEME = "hf-hub:"

# What our own arguments decide, whatever a folder was built with.
_OURS = ("num_classes", "img_size", "in_chans", "drop_path_rate")


class TimmModel(nn.Module):
    """The part of timm's interface that this package relies on; every timm model has it, and none derives from this.

    Attributes:
        num_features: channels of what ``forward_features`` returns.
        pretrained_cfg: description of the weights that belong to the name.
    """

    num_features: int
    pretrained_cfg: dict[str, Any]

    def forward_features(self, images: Tensor) -> Any:
        """Return the final map (B, C, H, W) or (B, H, W, C), tokens (B, N, C), or several of them."""
        raise NotImplementedError

    def forward_head(self, features: Any, pre_logits: bool = False) -> Tensor:
        """Pool what ``forward_features`` returned; with ``pre_logits`` stop before the classifier."""
        raise NotImplementedError


def base_of(architecture: str) -> str:
    """Return the architecture whose weights fill all layers of one of this package's but the new ones; else itself."""
    return BASES.get(architecture, architecture)


def create_timm_model(name: str, *, image_size: tuple[int, int], drop_path_rate: float = 0.0) -> TimmModel:
    """Build a timm model without classifier and with random weights.

    Args:
        name: a name of timm or of :mod:`~diffreid_lightning.backbones.architectures`, with or without its tag
            (``resnet50``, ``resnet50.a1_in1k``), ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``; of the last two only
            the configuration is read here.
        image_size: (height, width) in pixels; handed to timm where the architecture is built for one size.
        drop_path_rate: stochastic depth, 0 to 1.

    Returns:
        The model; ``pretrained_cfg`` describes the weights that belong to the name.

    Raises:
        UserError: unknown name or tag, unreadable folder, an architecture that knows no such size or no stochastic
            depth.
    """
    architecture, pretrained_cfg, model_args = _resolve(name)
    arguments: dict[str, Any] = {**model_args, "num_classes": 0, "drop_path_rate": drop_path_rate}
    if resolve_pretrained_cfg(architecture, pretrained_cfg).fixed_input_size or "img_size" in model_args:
        arguments["img_size"] = image_size
    try:
        return _create(architecture, pretrained_cfg, arguments)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        given = f"; {CONFIG_FILE} gives it model_args {model_args}" if model_args else ""
        raise UserError(
            f"timm cannot build {name} for images of {image_size[0]}x{image_size[1]} pixels.",
            found=f"{type(error).__name__}: {error}{given}",
            remedy="Choose another image_size (height, width), another drop_path_rate or another backbone"
            + (f", or correct {CONFIG_FILE}." if model_args else "."),
        ) from error


def _create(architecture: str, pretrained_cfg: PretrainedCfg | None, arguments: dict[str, Any]) -> TimmModel:
    try:
        return timm.create_model(architecture, pretrained_cfg=pretrained_cfg, **arguments)
    except TypeError as error:
        # Some families know no stochastic depth; others have it on by default, so 0 has to be said where it can be.
        if arguments.get("drop_path_rate") != 0.0 or "drop_path_rate" not in str(error):
            raise
    without = {key: value for key, value in arguments.items() if key != "drop_path_rate"}
    return timm.create_model(architecture, pretrained_cfg=pretrained_cfg, **without)


def _resolve(name: str) -> tuple[str, PretrainedCfg | None, dict[str, Any]]:
    """Return the registry name, the description of the weights and the arguments behind any form of name."""
    if name.startswith((LOCAL_SCHEME, HUB_SCHEME)):
        config = read_config(name)
        if not is_model(config.architecture):
            raise _unknown(config.architecture, f"the architecture that {name} names")
        known = {entry.name for entry in fields(PretrainedCfg)}
        described = {key: value for key, value in config.pretrained_cfg.items() if key in known}
        arguments = {key: value for key, value in config.model_args.items() if key not in _OURS}
        if "img_size" in config.model_args:  # written of a network of one size, though its architecture may vary
            arguments["img_size"] = None
        return config.architecture, PretrainedCfg(**{**described, "architecture": config.architecture}), arguments
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        raise _unknown(name, "a timm model")
    try:
        return architecture, get_pretrained_cfg(name), {}
    except RuntimeError as error:
        raise UserError(
            f"{architecture} has no weights tagged {tag!r}.",
            looked_for=f"the tag {tag!r} among timm's weights",
            found=shorten(timm.list_pretrained(f"{architecture}.*")) or "no tag at all",
            remedy=f"Give one of them, or {architecture} alone for timm's default.",
        ) from error


def read_config(name: str) -> TimmConfig:
    """Read the ``config.json`` behind a ``local-dir:`` or ``hf-hub:`` name."""
    if name.startswith(LOCAL_SCHEME):
        return read_timm_folder(name.removeprefix(LOCAL_SCHEME)).config
    return read_timm_config(hub_file(name.removeprefix(HUB_SCHEME), CONFIG_FILE))


def _unknown(name: str, looked_for: str) -> UserError:
    names = timm.list_models()
    close = difflib.get_close_matches(name.casefold(), names, n=5, cutoff=0.5)
    return UserError(
        f"timm has no model named {name!r}.",
        looked_for=f"{looked_for}, {name!r}, among the {len(names)} architectures of timm {timm.__version__}",
        found=f"near it: {', '.join(close)}" if close else "nothing near it",
        remedy="Give a name that timm.list_models() shows, local-dir:FOLDER or hf-hub:OWNER/NAME.",
    )
