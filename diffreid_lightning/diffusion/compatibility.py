"""Check that a pipeline's parts fit each other, and that its denoiser needs no other input than text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diffreid_lightning.diffusion.prompt_encoding import text_encoders
from diffreid_lightning.errors import UserError

_OTHER = "choose an SD 1.x, SD 2.x or SDXL checkpoint for text to image"


def check_pipeline(pipeline: Any, model: str | Path) -> None:
    """Check that a loaded pipeline generates from text only, and that its parts fit each other.

    Args:
        pipeline: a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        model: name of the checkpoint, for error messages.

    Raises:
        UserError: the denoiser needs an unsupported input, or parts do not fit each other.
    """
    unet, vae = pipeline.unet.config, pipeline.vae.config
    _check_channels(unet, vae, model)
    _check_scale(vae, model)
    _check_inputs(unet, getattr(pipeline, "text_encoder_2", None), model)
    for tokenizer, encoder in text_encoders(pipeline):
        _check_tokenizer(tokenizer, encoder.config, model)
    widths = [encoder.config.hidden_size for _, encoder in text_encoders(pipeline)]
    wanted = unet.encoder_hid_dim if unet.encoder_hid_dim_type else unet.cross_attention_dim
    if any(width != sum(widths) for width in (wanted if isinstance(wanted, (list, tuple)) else [wanted])):
        raise UserError(
            f"The denoiser and the text encoder of {model} do not fit each other.",
            looked_for=f"text encoders with {wanted} numbers a token (unet/config.json, cross_attention_dim)",
            found=" + ".join(map(str, widths)),
            remedy="copy all parts from one checkpoint",
        )


def _check_channels(unet: Any, vae: Any, model: str | Path) -> None:
    latent = vae.latent_channels
    if unet.in_channels != latent:
        raise UserError(
            f"The diffusion model at {model} does not generate from text only.",
            looked_for=f"a denoiser of {latent} channels",
            found=f"{unet.in_channels}, as models for inpainting have",
            remedy="choose a text-to-image checkpoint",
        )
    if unet.out_channels != latent:
        raise UserError(
            f"The denoiser of {model} predicts more than the noise.",
            looked_for=f"{latent} output channels (unet/config.json, out_channels)",
            found=f"{unet.out_channels}, as networks with a learned variance have",
            remedy=_OTHER,
        )


def _check_scale(vae: Any, model: str | Path) -> None:
    """Refuse an invalid latent scale or shift: images would be black or NaN."""
    columns = [getattr(vae, name, None) for name in ("latents_mean", "latents_std")]
    numbers = [vae.scaling_factor, getattr(vae, "shift_factor", None) or 0.0]
    for column in columns:
        if isinstance(column, (list, tuple)) and len(column) == vae.latent_channels:
            numbers += column
        elif column is not None:
            numbers.append(column)
    plain = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
    if not plain or vae.scaling_factor <= 0 or 0 in (columns[1] or ()):
        raise UserError(
            f"The scale of the latents of {model} cannot be used.",
            looked_for=f"a positive scaling_factor in vae/config.json; latents_mean and latents_std null or lists of "
            f"{vae.latent_channels} numbers",
            found=f"scaling_factor {vae.scaling_factor!r}, latents_mean {columns[0]!r}, latents_std {columns[1]!r}",
            remedy="restore vae/config.json as the checkpoint was published",
        )


def _check_inputs(unet: Any, second: Any, model: str | Path) -> None:
    """Refuse a denoiser that was trained with further inputs."""
    addition = None if second is None else "text_time"
    reasons = {
        "time_cond_proj_dim": (
            unet.time_cond_proj_dim is None,
            "the guidance scale as an input, as models distilled by latent consistency (LCM) have",
            "choose the checkpoint that it was distilled from",
        ),
        "class_embed_type": (unet.class_embed_type is None, "a class as an input", _OTHER),
        "num_class_embeds": (unet.num_class_embeds is None, "a class as an input", _OTHER),
        "encoder_hid_dim_type": (
            unet.encoder_hid_dim_type in (None, "text_proj"), "an image as an input", _OTHER,
        ),
        "addition_embed_type": (
            unet.addition_embed_type == addition, f"other additions than {addition or 'none'}", _OTHER,
        ),
    }  # fmt: skip
    for name, (honored, found, remedy) in reasons.items():
        if not honored:
            raise UserError(
                f"The denoiser of {model} needs an unsupported input.",
                looked_for=f"a denoiser of latents, timesteps and text: {name} in unet/config.json",
                found=f"{name} {unet[name]!r}: {found}",
                remedy=remedy,
            )
    if second is not None:
        wanted = second.config.projection_dim + 6 * unet.addition_time_embed_dim
        if unet.projection_class_embeddings_input_dim != wanted:
            raise UserError(
                f"The denoiser of {model} needs other image conditions than sizes.",
                looked_for=f"projection_class_embeddings_input_dim {wanted} in unet/config.json",
                found=f"{unet.projection_class_embeddings_input_dim}, as SDXL's refiner has",
                remedy="choose the SDXL base model, not the refiner",
            )


def _check_tokenizer(tokenizer: Any, encoder: Any, model: str | Path) -> None:
    """Refuse a tokenizer whose ids or lengths do not fit the text encoder."""
    length, count = tokenizer.model_max_length, len(tokenizer)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lacking = [name for name, number in special.items() if number is None]
    fits = isinstance(length, int) and 2 < length <= encoder.max_position_embeddings
    if not fits or count > encoder.vocab_size or lacking:
        raise UserError(
            f"The tokenizer of {model} is incomplete, or another text encoder's.",
            looked_for=f"at most {encoder.vocab_size} tokens with beginning, end and padding; model_max_length of "
            f"at most {encoder.max_position_embeddings} in tokenizer_config.json",
            found=f"{count} tokens, model_max_length {length!r}" + (f", no {', '.join(lacking)}" if lacking else ""),
            remedy="copy the tokenizer's folder again, whole, from the checkpoint",
        )
