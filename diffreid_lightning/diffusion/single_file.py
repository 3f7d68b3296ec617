"""Find the configurations of single-file checkpoints, in the original layout (Rombach et al., arXiv 2112.10752).

Such a file holds the weights and neither configurations nor tokenizer. These come from a folder beside it of the same
name without the ending (``model.safetensors``, ``model/``), in diffusers' layout without weights; or, where there is
none, from :mod:`diffreid_lightning.diffusion.published_configs`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diffreid_lightning.diffusion.checkpoint_parts import INDEX, PICKLES, require_content
from diffreid_lightning.diffusion.published_configs import Family, write_configs
from diffreid_lightning.errors import UserError, first_line, shorten

_UNET = "model.diffusion_model."
_ATTENTION = f"{_UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"  # of SD 1.x and 2.x
_XL_TEXT = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
_PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def refuse_pickle(file: Path) -> None:
    """Refuse a file that is not in safetensors.

    Raises:
        UserError: it is a pickle or another format.
    """
    if file.suffix == ".safetensors":
        return
    if file.suffix not in PICKLES:
        raise UserError(
            f"{file} is not a diffusion model.",
            looked_for="a folder in diffusers' layout, or one .safetensors file",
            found="a file",
            remedy="name the checkpoint's folder, or its .safetensors file",
        )
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
        "save_file({k: v.clone().contiguous() for k, v in s.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    raise UserError(
        f"{file} is a pickle, which can run any code when it is loaded, and is not read here.",
        looked_for="a .safetensors file, which most pages that offer a .ckpt offer as well",
        found=file.suffix,
        remedy=f'convert it, then name the new file: python -c "{code}" {file} {file.with_suffix(".safetensors")}',
    )


@contextmanager
def configs_of(file: Path) -> Iterator[Path]:
    """Find or write the configurations and tokenizers of a single-file checkpoint.

    Args:
        file: in safetensors.

    Yields:
        A folder in diffusers' layout without weights; temporary unless it lies beside the file.

    Raises:
        UserError: the file is damaged, or of an unknown family.
    """
    shapes, notes = _header(file)
    beside = file.with_suffix("")
    if (beside / INDEX).is_file():
        yield beside
        return
    family = _family(file, shapes)
    prediction = _prediction(file, family, shapes, notes)
    with tempfile.TemporaryDirectory() as folder:
        write_configs(family, prediction, "ztsnr" in shapes, Path(folder))
        yield Path(folder)


def _header(file: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Read the names and shapes of the tensors, and the metadata."""
    require_content(file, file)
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_slice(name).get_shape() for name in names}, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read.",
            looked_for="a complete safetensors file",
            found=first_line(error),
            remedy="download it again",
        ) from error


def _family(file: Path, shapes: dict[str, Any]) -> Family:
    first = shapes.get(f"{_UNET}input_blocks.0.0.weight")
    if first is not None and first[1] == 4 and "edm_mean" not in shapes:
        if _XL_TEXT in shapes:
            return "sdxl"
        width = shapes.get(_ATTENTION, [0])[-1]
        encoders = [name for name in shapes if name.startswith("cond_stage_model.")]
        if width in (768, 1024) and encoders:
            return "sd1" if width == 768 else "sd2"
    raise UserError(
        f"{file} is of an unknown model family.",
        looked_for="denoiser, autoencoder and text encoder of SD 1.x, SD 2.x or SDXL, in the original layout",
        found=f"{len(shapes)} tensors: {shorten(sorted(shapes), 3)}",
        remedy=_beside(file, "OWNER/NAME"),
    )


def _prediction(file: Path, family: Family, shapes: dict[str, Any], notes: dict[str, str]) -> str:
    noted = notes.get("modelspec.prediction_type")
    if "v_pred" in shapes:
        return "v_prediction"
    if noted in _PREDICTIONS:
        return _PREDICTIONS[noted]
    if family != "sd2":
        return "epsilon"
    raise UserError(
        f"{file} has no prediction type, and both kinds of SD 2.x have the same tensors.",
        looked_for="modelspec.prediction_type in the file's metadata",
        found=noted or "none",
        remedy=_beside(
            file, "stabilityai/stable-diffusion-2-1 (v_prediction) or stabilityai/stable-diffusion-2-1-base"
        ),
    )


def _beside(file: Path, repository: str) -> str:
    return (
        f"put the model's configurations and tokenizer beside it, as {file.with_suffix('')}/{INDEX} and so on: "
        f"hf download REPOSITORY --include '*.json' '*.txt' --local-dir {file.with_suffix('')}, "
        f"REPOSITORY being {repository}"
    )
