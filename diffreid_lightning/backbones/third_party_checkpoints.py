"""Read a third-party checkpoint as plain tensors and unwrap its state dict.

First step of the ``convert`` command. ``checkpoint_layouts.py`` knows the layouts, ``key_conversion.py`` changes the
names, and ``fill_backbone`` of ``initial_weights.py`` takes the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffreid_lightning.backbones.checkpoint_layouts import FORMS, recognize_forms
from diffreid_lightning.backbones.timm_folder import Checkpoint, read_safetensors
from diffreid_lightning.errors import UserError, did_you_mean, shorten
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.torch_file import NotPlainError, read_plain

# Layers that neither timm nor this package has an architecture with, by the names of their tensors.
_NOT_IN_TIMM = {
    r"^patch_embed\.conv\.": "instance and batch normalization in the stem of a ViT (PASS, TransReID-SSL's ICS)",
    r"^part_token\d": "part tokens (PASS)",
    r"\.conv2[a-d]\.|\.gate\.fc1\.": "OSNet's blocks",
    r"^class_embedding$|^transformer\.resblocks\.": "CLIP's own image encoder (CLIP-ReID)",
    r"^sie_embed$": "a learnt embedding per camera or view (TransReID's SIE), which the features depend on",
}
_BUILDABLE = "a ResNet, ViT or Swin"


def open_foreign(path: str | Path, form: str) -> Checkpoint:
    """Read another project's checkpoint.

    Args:
        path: a ``.pth`` / ``.pt`` / ``.tar`` file of plain tensors, or a ``.safetensors`` one.
        form: a name in :data:`~diffreid_lightning.backbones.FORMS`.

    Returns:
        The backbone's tensors by timm's names, with what the project's network has around them.

    Raises:
        UserError: the form is unknown, or another one than the file has; the file is missing, damaged, holds more than
            plain tensors, no tensors, or a network that timm cannot build.
    """
    if form not in FORMS:
        raise UserError(
            f"There is no form of checkpoints called {form!r}.",
            found=f"known: {', '.join(FORMS)}",
            remedy=did_you_mean(form, FORMS, "use the project the checkpoint was trained with"),
        )
    file = user_path(path)
    content = _read(file, form)
    tensors = FORMS[form].unwrap(content)
    if tensors is None:
        raise _of_another_form(content, form, file)
    checkpoint = FORMS[form].open(tensors, f"{file} ({form})")
    _refuse_unknown_layers(checkpoint.tensors, file)
    return checkpoint


def forms_of(path: Path) -> list[str]:
    """List the forms that a file can be read in; empty where it holds none, or cannot be read."""
    try:
        content = read_safetensors(path) if path.suffix == ".safetensors" else read_plain(path)
    except (NotPlainError, UserError):
        return []
    return recognize_forms(content) if isinstance(content, Mapping) else []


def _read(file: Path, form: str) -> Mapping[str, Any]:
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
        content = read_plain(file)
    except NotPlainError as error:
        raise UserError(
            f"{file} cannot be read as plain tensors.",
            looked_for="what torch.save writes of a state dict (nothing else is unpickled, since it could run code)",
            found=error.obstacle,
            remedy=_resave(file, form) if error.of_class else "download or copy the file again",
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file} is no state dict.",
            looked_for="tensors by name",
            found=type(content).__name__,
            remedy="save the network's state dict: torch.save(network.state_dict(), FILE)",
        )
    return content


def _resave(file: Path, form: str) -> str:
    """Write the command that keeps a checkpoint's tensors alone, in the surroundings that its objects come from."""
    plain = file.with_name(f"{file.name.split('.')[0]}-plain.pth")
    inner = "".join(f"; c = c.get({key!r}, c)" for key in FORMS[form].containers)
    code = (
        f"import torch; c = torch.load({str(file)!r}, map_location='cpu', weights_only=False)"
        f"; c = c.state_dict() if hasattr(c, 'state_dict') else c{inner}"
        f"; torch.save({{k: v for k, v in c.items() if torch.is_tensor(v)}}, {str(plain)!r})"
    )
    return (
        "where you trust the file (this runs what is in it), keep its tensors alone, where its project is installed: "
        f'python -c "{code}"; then convert {plain}'
    )


def _of_another_form(content: Mapping[str, Any], form: str, file: Path) -> UserError:
    names = [str(name) for name, value in _tensors(content)]
    if not names:
        return UserError(
            f"{file} holds no tensors where this form keeps them.",
            looked_for=f"tensors by name, at the top or under {', '.join(FORMS[form].containers)}",
            found=shorten(map(str, content)) or "nothing",
            remedy="give the checkpoint that holds the network's weights",
        )
    _refuse_unknown_layers((re.sub(r"^(module|base|backbone|image_encoder)\.", "", name) for name in names), file)
    others = recognize_forms(content)
    start = ", ".join(prefix or "no prefix" for prefix in FORMS[form].prefixes)
    if others:
        theirs = f": the form {' or '.join(others)}"
        remedy = "use " + " or ".join(f"--form {other}" for other in others)
    else:
        theirs = f", under {shorten(sorted({name.split('.')[0] for name in names}))}"
        begun = sorted({f"'{name.split('.')[0]}.'" for name in names if "." in name})
        remedy = (
            "save the network's tensors by themselves under torchvision's or timm's names, without "
            f"{' or '.join(begun[:3]) or 'a beginning'} before them, and use --form timm"
        )
    return UserError(
        f"{file} is not a checkpoint of the form {form}.",
        looked_for=f"the names of a network's tensors as {form} writes them (before them: {start})",
        found=f"{shorten(names, 3)}{theirs}",
        remedy=remedy,
    )


def _tensors(content: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield str(name), value
        elif isinstance(value, Mapping):
            yield from ((str(key), inner) for key, inner in value.items() if isinstance(inner, Tensor))


def _refuse_unknown_layers(names: Iterable[str], file: Path) -> None:
    names = list(names)
    for pattern, what in _NOT_IN_TIMM.items():
        found = [name for name in names if re.search(pattern, name)]
        if found:
            raise UserError(
                f"{file} holds a network that cannot be built here.",
                looked_for="an architecture of timm or of this package",
                found=f"{what}: {shorten(found, 3)}",
                remedy=f"choose weights of {_BUILDABLE}, of this project or of another one ({', '.join(FORMS)})",
            )
