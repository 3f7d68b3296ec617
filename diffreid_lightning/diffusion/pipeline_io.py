"""Load and save pipelines and autoencoders as diffusers folders."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from diffreid_lightning.diffusion.checkpoint_parts import LAYOUTS, check_network, check_parts
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.compatibility import check_pipeline
from diffreid_lightning.diffusion.single_file import configs_of
from diffreid_lightning.errors import DiffReIDError, UserError, first_line, shorten, translate_disk_errors
from diffreid_lightning.paths import user_path
from diffreid_lightning.storage.atomic import describe_existing, replace_folder
from diffreid_lightning.storage.json_notes import write_json

PROVENANCE = "provenance.json"
_PUBLISHED = "text_model."  # prefix of a text encoder's tensors in published checkpoints, which every loader knows

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline
_PIPELINES: dict[str, type] = {each.__name__: each for each in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
_SETTINGS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {},
}
_NETWORKS: dict[str, type] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def load_autoencoder(path: str | Path) -> AutoencoderKL:
    """Load an autoencoder in float32.

    Args:
        path: folder of an ``AutoencoderKL``, or of a pipeline whose ``vae`` it is, or a pipeline's single file.

    Raises:
        UserError: there is none, or its files are damaged.
    """
    folder = user_path(path)
    if folder.is_file():
        vae: AutoencoderKL = load_pipeline(path).vae
        return vae
    if (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    if not (folder / "config.json").is_file():
        raise UserError(
            f"There is no autoencoder at {path}",
            looked_for="config.json of an AutoencoderKL, or a pipeline folder with vae/config.json",
            found=describe_existing(user_path(path)),
            remedy="train one: python -m diffreid_lightning fit --config tools/tiny_sd/configs/autoencoder.yaml",
        )
    with _wrap_load_errors(path, "autoencoder"):
        vae = _load_network(AutoencoderKL, folder, torch.float32)
        return vae


def save_autoencoder(vae: AutoencoderKL, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write an autoencoder as a diffusers folder, whole or not at all.

    Args:
        vae: the autoencoder.
        folder: output folder; its content is replaced.
        provenance: content of ``provenance.json``.

    Raises:
        RunError: the disk is full.
    """
    with replace_model_folder(folder, provenance) as target:
        vae.save_pretrained(target, safe_serialization=True)


def save_pipeline(pipeline: Pipeline, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a pipeline as a diffusers folder that its class's ``from_pretrained`` loads without arguments.

    The denoiser and the autoencoder are stored in half precision; the text encoders in single precision, because
    loaders keep their stored dtype and would otherwise mix the two.

    Args:
        pipeline: the pipeline; it is not changed.
        folder: output folder; its content is replaced.
        provenance: content of ``provenance.json``.

    Raises:
        RunError: the disk is full.
    """
    with replace_model_folder(folder, provenance) as target:
        pipeline.save_pretrained(target, safe_serialization=True)
        for file in [*target.glob("unet/*.safetensors"), *target.glob("vae/*.safetensors")]:  # large ones are split
            _recast(file, torch.float16)
        for part in target.glob("text_encoder*"):
            for file in part.glob("*.safetensors"):
                _recast(file, torch.float32, _PUBLISHED if part.name == "text_encoder" else "")
            _note_single_precision(part / "config.json")


def _recast(file: Path, dtype: torch.dtype, prefix: str = "") -> None:
    """Store tensors in another type, with a prefix of their names where it is missing."""
    cast = {
        name if name.startswith(prefix) else prefix + name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(cast, file, metadata={"format": "pt"})


def _note_single_precision(config: Path) -> None:
    """Set the dtype in the configuration, which loaders read before the tensors."""
    noted = json.loads(config.read_text(encoding="utf-8"))
    noted |= {name: "float32" for name in ("dtype", "torch_dtype") if name in noted}
    write_json(config, noted)


def assemble_pipeline(
    unet: nn.Module, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, scheduler: Any
) -> StableDiffusionPipeline:
    """Build a ``StableDiffusionPipeline`` without a safety checker.

    Args:
        unet: the denoiser.
        vae: the autoencoder.
        text_encoder: a CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: a diffusers scheduler.

    Returns:
        The pipeline, without a progress bar; it holds the parts themselves, not copies.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(model: str | Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    """Load a Stable Diffusion checkpoint: SD 1.x, 2.x or SDXL.

    Args:
        model: a folder in diffusers' layout, a single file, a hub id, or ``tiny-sd``.
        dtype: of the weights.

    Returns:
        The pipeline, in evaluation mode, without safety checker and progress bar.

    Raises:
        UserError: there is none, it has another layout, or its files are damaged.
    """
    folder = locate_pipeline(model)
    pipeline = _load_file(folder, model, dtype) if folder.is_file() else _load_folder(folder, model, dtype)
    check_pipeline(pipeline, model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_folder(folder: Path, model: str | Path, dtype: torch.dtype) -> Pipeline:
    name = check_parts(folder, model)
    networks = {part: cls for part, cls in _NETWORKS.items() if part in LAYOUTS[name]}
    with _wrap_load_errors(model, "diffusion model"):
        loaded = {part: _load_network(cls, folder / part, dtype) for part, cls in networks.items()}
        pipeline: Pipeline = _PIPELINES[name].from_pretrained(  # type: ignore[attr-defined]
            folder, local_files_only=True, **loaded, **_SETTINGS[name]
        )
    return pipeline


def _load_file(file: Path, model: str | Path, dtype: torch.dtype) -> Pipeline:
    with configs_of(file) as configs, _wrap_load_errors(model, "diffusion model"):
        name = check_parts(configs, model, weights=False)
        try:
            pipeline: Pipeline = _PIPELINES[name].from_single_file(  # type: ignore[attr-defined]
                str(file), config=str(configs), local_files_only=True, torch_dtype=dtype, **_SETTINGS[name]
            )
        except NotImplementedError as error:  # a cast of tensors that were not in the file
            raise UserError(
                f"The weights in {file} are incomplete.",
                looked_for="each tensor of the networks that its configurations describe",
                found=first_line(error),
                remedy="download it again, or put the configurations that belong to it beside it",
            ) from error
        for part in _NETWORKS:
            if part in LAYOUTS[name]:
                _check_tensors(getattr(pipeline, part), f"{file} ({part})", [])
    return pipeline


def _load_network(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load one network; missing tensors are an error, where diffusers would initialize them at random.

    Raises:
        UserError: files or tensors are missing.
    """
    weights = check_network(folder, folder.parent)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch_dtype.*")  # newer versions renamed it
        network, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, variant=weights.variant,
            output_loading_info=True,
        )  # fmt: skip
    _check_tensors(network, str(folder), report["missing_keys"])
    return network


def _check_tensors(network: Any, where: str, missing: Iterable[str]) -> None:
    """Refuse a network with missing tensors or weights that are not finite."""
    tensors = network.state_dict()
    lacking = sorted({*missing, *(name for name, tensor in tensors.items() if tensor.is_meta)})
    if lacking:
        raise UserError(
            f"The weights in {where} are incomplete.",
            looked_for=f"the tensors of {type(network).__name__} as its configuration describes it",
            found=f"no {shorten(lacking, 4)}",
            remedy="copy the checkpoint again, or restore the configuration that belongs to these weights",
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(
            f"The weights in {where} are not finite.",
            looked_for=f"finite values in {network.dtype}",
            found=f"infinity or NaN in {shorten(broken, 4)}",
            remedy="copy the checkpoint again, or choose float32 or bfloat16, which have a larger range than float16",
        )


@contextmanager
def _wrap_load_errors(path: str | Path, what: str) -> Iterator[None]:
    bars = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    spoken = [(library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)]
    for library, _ in spoken:
        library.set_verbosity_error()  # their warnings are errors here
    for library in bars:
        library.disable_progress_bar()
    try:
        yield
    except (DiffReIDError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a configuration with values of the wrong type can raise anything
        raise UserError(
            f"The {what} at {path} cannot be loaded.",
            looked_for="matching configurations and weights",
            found=f"{type(error).__name__}: {first_line(error)}",
            remedy="copy it again, whole, as it was published",
        ) from error
    finally:
        for library in bars:
            library.enable_progress_bar()
        for library, level in spoken:
            library.set_verbosity(level)


@contextmanager
def replace_model_folder(folder: Path, provenance: Mapping[str, Any]) -> Iterator[Path]:
    """Write a model's folder, whole or not at all; the caller fills it, and ``provenance.json`` is added.

    Args:
        folder: output folder; its content is replaced.
        provenance: content of ``provenance.json``.

    Raises:
        RunError: the disk is full.
    """
    with translate_disk_errors(f"{folder} cannot be written.", "free disk space"), replace_folder(folder) as partial:
        yield partial
        write_json(partial / PROVENANCE, provenance)
