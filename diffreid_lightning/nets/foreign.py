"""Checkpoints of other Re-ID projects: their wrappings taken off, their normalisation known, only plain tensors read.

All of them name a network's tensors as torchvision and timm do, inside wrappings of their own. The normalisation is
the one their authors fine-tune these weights with:

* LUPerson (arXiv 2012.03753): mean 89.896, 79.200, 80.073 and deviation 63.872, 64.305, 63.839 of 255.
* LUPerson-NL (arXiv 2203.16533): the statistics of its own images.
* CION (arXiv 2409.18569) and torchreid (arXiv 1910.10093): ImageNet's.
* fast-reid (arXiv 2006.02631): as the checkpoint's own ``pixel_mean`` and ``pixel_std`` say, else ImageNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from diffreid_lightning.errors import UserError, nearest, shorten
from diffreid_lightning.nets.folder import RGB, WeightTraits, read_safetensors
from diffreid_lightning.nets.sources import Checkpoint
from diffreid_lightning.paths import user_path

_IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ForeignForm:
    """How a project wraps its state dicts.

    Args:
        mean: per-channel mean of inputs in [0, 1] that belongs to the weights.
        std: per-channel deviation.
        containers: keys that hold the state dict inside the file, the first that is there wins.
        prefixes: what stands before the network's own names, outermost first; each may be absent.
        branch: only tensors below it belong to the network, where any has it (a teacher beside its student, say).
        heads: beginnings of names, prefixes removed, of what is not the backbone.
    """

    mean: RGB
    std: RGB
    containers: tuple[str, ...] = ("state_dict", "model")
    prefixes: tuple[str, ...] = ("module.", "backbone.")
    branch: str | None = None
    heads: tuple[str, ...] = ("fc.", "classifier.", "head.", "heads.", "bottleneck.")


FORMS: Mapping[str, ForeignForm] = {
    "luperson": ForeignForm(
        mean=(89.896 / 255, 79.200 / 255, 80.073 / 255),
        std=(63.872 / 255, 64.305 / 255, 63.839 / 255),
        prefixes=("module.", "encoder_q.", "base."),
        branch="encoder_q.",
        heads=("fc.", "classifier.", "head.", "queue"),
    ),
    "luperson-nl": ForeignForm(
        mean=(0.3452, 0.3070, 0.3114),
        std=(0.2633, 0.2500, 0.2480),
        prefixes=("module.", "encoder_q.", "base."),
        branch="encoder_q.",
        heads=("fc.", "classifier.", "head.", "queue"),
    ),
    "cion": ForeignForm(
        *_IMAGENET,
        containers=("teacher", "state_dict", "model"),
        prefixes=("module.", "backbone.", "base."),
        branch="backbone.",
    ),
    "torchreid": ForeignForm(*_IMAGENET),
    "fastreid": ForeignForm(*_IMAGENET, containers=("model", "state_dict"), branch="backbone."),
}


def open_foreign(path: str | Path, form: str) -> Checkpoint:
    """Read another project's checkpoint.

    Args:
        path: a ``.pth`` / ``.pt`` / ``.tar`` file of plain tensors, or a ``.safetensors`` one.
        form: ``luperson``, ``luperson-nl``, ``cion``, ``torchreid`` or ``fastreid``.

    Returns:
        The backbone's tensors by torchvision's names, with the normalisation that belongs to them.

    Raises:
        UserError: the form is unknown; the file is missing, damaged, holds more than plain tensors, or no tensors.
    """
    if form not in FORMS:
        guess = nearest(form, FORMS)
        raise UserError(
            f"There is no form of checkpoints called {form!r}.",
            found=f"known: {', '.join(FORMS)}",
            remedy=f"did you mean {guess!r}?" if guess else "use the project the checkpoint was trained with",
        )
    known = FORMS[form]
    file = user_path(path)
    tensors = _state_dict(_read(file), known, file)
    named, beside = _network(tensors, known)
    head = tuple(name for name in named if name.startswith(known.heads))
    mean, std = _own_normalisation(tensors) or (known.mean, known.std)
    kept = {name: tensor for name, tensor in named.items() if name not in head}
    return Checkpoint(f"{file} ({form})", kept, WeightTraits(mean=mean, std=std), dropped_head=(*head, *beside))


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        around = sorted(item.name for item in file.parent.iterdir()) if file.parent.is_dir() else []
        raise UserError(
            f"There is no checkpoint at {file}.",
            looked_for=str(file.absolute()),
            found=shorten(around) or "no such folder",
            remedy="download it from the project's page and give its path",
        )
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{file} cannot be read as plain tensors.",
            looked_for="what torch.save writes of a state dict (nothing else is unpickled, since it could run code)",
            found=str(error).splitlines()[0],
            remedy="where you trust the file, save its state dict again by itself: torch.save(state_dict, FILE)",
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} is no state dict.", looked_for="tensors by name", found=type(content).__name__)
    return content


def _state_dict(content: Mapping[str, Any], form: ForeignForm, file: Path) -> dict[str, Tensor]:
    for key in form.containers:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
            break
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{file} holds no tensors where this form keeps them.",
            looked_for=f"tensors by name, at the top or under {', '.join(form.containers)}",
            found=shorten(map(str, content)) or "nothing",
            remedy="choose another --form",
        )
    return tensors


def _network(tensors: Mapping[str, Tensor], form: ForeignForm) -> tuple[dict[str, Tensor], list[str]]:
    """Take prefixes off; leave out, and name, what lies beside the branch that is the network."""
    stripped = {_without(name, ("module.",)): tensor for name, tensor in tensors.items()}
    branch = form.branch
    beside: list[str] = []
    if branch is not None and any(name.startswith(branch) for name in stripped):
        beside = [name for name in stripped if not name.startswith(branch)]
    return {_without(name, form.prefixes): stripped[name] for name in stripped if name not in set(beside)}, beside


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def _own_normalisation(tensors: Mapping[str, Tensor]) -> tuple[RGB, RGB] | None:
    """Mean and deviation of pixels from 0 to 255 that a checkpoint carries itself, scaled to inputs in [0, 1]."""
    found = []
    for name in ("pixel_mean", "pixel_std"):
        values = next((tensor for key, tensor in tensors.items() if _without(key, ("module.",)) == name), None)
        if values is None or values.numel() != 3:
            return None
        red, green, blue = (float(value) / 255 for value in values.flatten())
        found.append((red, green, blue))
    return found[0], found[1]
