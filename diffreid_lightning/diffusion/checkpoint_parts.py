"""Find the files that are loaded from a diffusers folder, and check that all are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from diffreid_lightning.errors import UserError, first_line, shorten
from diffreid_lightning.storage.atomic import describe_existing
from diffreid_lightning.storage.torch_file import describe_non_weights

INDEX = "model_index.json"
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")

#: classes of the parts of a pipeline, by the name of the pipeline's class; None takes any
_SD: dict[str, tuple[str, ...] | None] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": None,
}
LAYOUTS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "StableDiffusionPipeline": _SD,  # SD 1.x and 2.x
    "StableDiffusionXLPipeline": {
        **_SD,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": _SD["tokenizer"],
    },
}
_STEMS = ("diffusion_pytorch_model", "model")  # of diffusers' networks and of transformers'
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_COPY = "copy the checkpoint again, whole (hf download OWNER/NAME --local-dir FOLDER)"


class Weights(NamedTuple):
    """The weight files of one network."""

    variant: str | None  #: ``fp16`` and the like, as ``from_pretrained`` takes it; None for plain names
    files: tuple[Path, ...]  #: safetensors, sorted by name


def find_weights(folder: Path) -> Weights | None:
    """Find the files that ``from_pretrained`` loads a network from.

    Plain names come first, then the variant ``fp16``, then any other. Other files beside them (variants, pickles,
    shards of an earlier export) are not loaded.

    Args:
        folder: of the network, such as ``unet``.

    Returns:
        None if there is no weight file in safetensors.

    Raises:
        UserError: the list of shards is damaged.
    """
    for stem in _STEMS:
        found = {**_indices(folder, stem), **_singles(folder, stem)}
        if stem == _STEMS[0]:  # diffusers prefers shards, transformers the single file
            found |= _indices(folder, stem)
        for variant in sorted(found, key=lambda name: (name is not None, name != "fp16", name or "")):
            file = found[variant]
            names = _shards(file) if file.suffix == ".json" else [file.name]
            return Weights(variant, tuple(folder / name for name in sorted(names)))
    return None


def check_parts(folder: Path, model: str | Path, weights: bool = True) -> str:
    """Check that all files of a pipeline are there; weights are not read.

    Args:
        folder: of the pipeline.
        model: name of the checkpoint, for error messages.
        weights: also check the weight files.

    Returns:
        The name of the pipeline's class.

    Raises:
        UserError: another layout, a missing, empty or unreadable file, or weights only in pickles.
    """
    index = read_config(folder / INDEX, model)
    name = str(index.get("_class_name"))
    if name not in LAYOUTS:
        raise UserError(
            f"The diffusion model at {model} has another layout.",
            looked_for=f"a pipeline of the class {' or '.join(LAYOUTS)}",
            found=name,
            remedy="choose an SD 1.x, SD 2.x or SDXL checkpoint",
        )
    for part, classes in LAYOUTS[name].items():
        entry = index.get(part)
        library, found = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        # A library can name a Python file in the folder, which some diffusers releases execute.
        known = isinstance(found, str) and library in ("diffusers", "transformers")
        if not known or (classes is not None and found not in classes):
            raise UserError(
                f"The diffusion model at {model} has an unsupported {part} for {name}.",
                looked_for=f"{part}: {' or '.join(classes) if classes else 'a scheduler of diffusers'} in {INDEX}",
                found=str(found or "none"),
                remedy="choose an SD 1.x, SD 2.x or SDXL checkpoint for text to image",
            )
        if part == "scheduler":
            read_config(folder / part / "scheduler_config.json", model)
        elif part in TOKENIZERS:
            _check_tokenizer(folder / part, model)
        elif weights:
            check_network(folder / part, model)
        else:
            read_config(folder / part / "config.json", model)
    return name


def check_network(folder: Path, model: str | Path) -> Weights:
    """Check that a network has its configuration and its weights; return the weights.

    Args:
        folder: of the network.
        model: name of the checkpoint, for error messages.

    Raises:
        UserError: a file is missing, damaged or a git-lfs pointer, or the weights are pickles.
    """
    read_config(folder / "config.json", model)
    found = find_weights(folder)
    if found is None:
        pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
        if pickles:
            raise _pickles(folder, pickles, model)
        raise _incomplete(model, f"weights in safetensors in {folder}", describe_existing(folder))
    for file in found.files:
        require_content(file, model)
    return found


def read_config(file: Path, model: str | Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        UserError: it is missing, damaged, a git-lfs pointer, or not an object.
    """
    require_content(file, model)
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _incomplete(model, f"a JSON object in {file}", first_line(error)) from error
    if not isinstance(read, dict):
        raise _incomplete(model, f"a JSON object in {file}", f"a {type(read).__name__}")
    return read


def require_content(file: Path, model: str | Path) -> None:
    """Refuse a missing or empty file, and a git-lfs pointer.

    Raises:
        UserError: it is one of these.
    """
    if not file.is_file():
        raise _incomplete(model, str(file), describe_existing(file.parent))
    found = describe_non_weights(file)
    if found is not None:
        raise _incomplete(model, f"the content of {file}", found)


def _singles(folder: Path, stem: str) -> dict[str | None, Path]:
    return _find_variants(folder, rf"{stem}(?:\.(?P<variant>[\w-]+))?\.safetensors", r"-\d+-of-\d+$")


def _indices(folder: Path, stem: str) -> dict[str | None, Path]:
    return _find_variants(folder, rf"{stem}\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json", r"$^")


def _find_variants(folder: Path, pattern: str, excluded: str) -> dict[str | None, Path]:
    """Find files by the variant in their names."""
    found: dict[str | None, Path] = {}
    for file in sorted(folder.glob("*")):
        match = re.fullmatch(pattern, file.name)
        if match and not re.search(excluded, match["variant"] or "x"):
            found[match["variant"]] = file
    return found


def _shards(index: Path) -> set[str]:
    listed = read_config(index, index.parent.parent).get("weight_map")
    names = listed.values() if isinstance(listed, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise _incomplete(index.parent.parent, f"a weight_map with names of files in {index}", "something else")
    return set(names)


def _check_tokenizer(folder: Path, model: str | Path) -> None:
    names = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    for name in (*names, "tokenizer_config.json"):
        require_content(folder / name, model)
        if name.endswith(".json"):
            read_config(folder / name, model)
    try:
        vocabulary, merges = _byte_pairs(folder, model)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _incomplete(model, f"a vocabulary and merges in {folder}", first_line(error)) from error
    _check_merges(vocabulary, merges, folder, model)


def _byte_pairs(folder: Path, model: str | Path) -> tuple[list[str], list[str]]:
    """Read the tokens of a tokenizer and its merges, ``left right``."""
    if (folder / "tokenizer.json").is_file():
        table = read_config(folder / "tokenizer.json", model)["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["merges"]]
        return list(table["vocab"].keys()), merges
    vocabulary = read_config(folder / "vocab.json", model)
    return list(vocabulary), (folder / "merges.txt").read_text(encoding="utf-8").splitlines()


def _check_merges(vocabulary: list[str], merges: list[str], folder: Path, model: str | Path) -> None:
    """Refuse a truncated list of merges: it would silently give other tokens."""
    merged = {line.replace(" ", "") for line in merges if line.count(" ") == 1}
    names = [each for each in vocabulary if each not in merged and len(each.removesuffix("</w>")) > 1]
    unmerged = [each for each in names if not (each.startswith("<") and each.endswith(">"))]  # special tokens
    if len(unmerged) > 8:
        raise _incomplete(
            model,
            f"a merge for each word of the vocabulary in {folder}",
            f"none for {shorten(unmerged, 4)}",
        )


def _incomplete(model: str | Path, looked_for: str, found: str) -> UserError:
    return UserError(
        f"The diffusion model at {model} is incomplete or damaged.", looked_for=looked_for, found=found, remedy=_COPY
    )


def _pickles(folder: Path, names: Iterable[str], model: str | Path) -> UserError:
    variant = ", variant='fp16'" if all(".fp16." in name for name in names) else ""
    root = folder.parent if (folder.parent / INDEX).is_file() else folder
    cls = "DiffusionPipeline" if root != folder else "AutoencoderKL"
    code = (
        f"from diffusers import {cls} as M; M.from_pretrained('{root}'{variant}).save_pretrained('{root}-safetensors')"
    )
    return UserError(
        f"The weights of {model} are pickles, which can run any code when they are loaded, and are not read here.",
        looked_for=f"*.safetensors in {folder}",
        found=shorten(names),
        remedy=f'convert them where that does no harm, then name the new folder: python -c "{code}"',
    )
