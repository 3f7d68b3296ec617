"""The networks of a latent diffusion model, built from a mapping of their own constructor arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffreid_lightning.errors import UserError, nearest


def build_autoencoder(settings: Mapping[str, Any]) -> AutoencoderKL:
    """Build a variational autoencoder (Kingma and Welling, arXiv 1312.6114; Rombach et al., arXiv 2112.10752).

    Args:
        settings: arguments of ``diffusers.AutoencoderKL``. The factor of its downsampling is 2 to the number of
            ``block_out_channels`` less one.

    Raises:
        UserError: an argument that the class does not have, or values that do not go together.
    """
    return _build(AutoencoderKL, settings, "model.architecture")


def build_unet(settings: Mapping[str, Any]) -> UNet2DConditionModel:
    """Build the denoising network.

    Args:
        settings: arguments of ``diffusers.UNet2DConditionModel``.

    Raises:
        UserError: an argument that the class does not have, or values that do not go together.
    """
    return _build(UNet2DConditionModel, settings, "model.unet")


def build_scheduler(settings: Mapping[str, Any]) -> DDIMScheduler:
    """Build the noise schedule with its deterministic sampler (Song et al., arXiv 2010.02502).

    Args:
        settings: arguments of ``diffusers.DDIMScheduler``.

    Raises:
        UserError: an argument that the class does not have, or values that do not go together.
    """
    return _build(DDIMScheduler, settings, "model.noise")


def build_text_encoder(settings: Mapping[str, Any], tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a CLIP text encoder for a tokenizer (Radford et al., arXiv 2103.00020).

    Args:
        settings: arguments of ``transformers.CLIPTextConfig`` other than those that the tokenizer decides: vocabulary
            size, length and special tokens.
        tokenizer: its vocabulary.

    Raises:
        UserError: an argument that a text encoder does not have.
    """
    known = CLIPTextConfig().to_dict()
    for name in settings:
        if name not in known:
            raise _unknown(name, list(known), "model.text_encoder", "a CLIP text encoder")
    config = CLIPTextConfig(
        **{
            **settings,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    # transformers takes the data type from a global default that half-precision code around it may have changed.
    return CLIPTextModel(config).to(torch.float32)


def _build(cls: type, settings: Mapping[str, Any], where: str) -> Any:
    known = list(inspect.signature(cls).parameters)
    for name in settings:
        if name not in known:
            raise _unknown(name, known, where, cls.__name__)
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
    except (ValueError, TypeError, AssertionError, IndexError) as error:
        raise UserError(
            f"{cls.__name__} refuses its arguments.", looked_for=f"values in {where} that go together", found=str(error)
        ) from error


def _unknown(name: str, known: list[str], where: str, what: str) -> UserError:
    guess = nearest(name, known)
    return UserError(
        f"{what} has no argument {name!r} ({where}).",
        remedy=f"did you mean {guess!r}?" if guess else f"its arguments are {', '.join(known)}",
    )
