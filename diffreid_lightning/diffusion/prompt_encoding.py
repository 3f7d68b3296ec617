"""Encode prompts for any Stable Diffusion layout, as its diffusers pipeline does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffreid_lightning.errors import UserError


class Conditioning(NamedTuple):
    """Encoded prompts; B of them, T tokens each."""

    states: Tensor  #: (B, T, D) hidden states of the text encoder, of both for SDXL side by side
    pooled: Tensor | None = None  #: (B, P) pooled output of the second text encoder, SDXL alone
    time_ids: Tensor | None = None  #: (B, 6) original size, crop and target size in pixels, SDXL alone

    def take(self, rows: Tensor | Sequence[int]) -> Conditioning:
        """Select rows, in this order and with repetitions.

        Args:
            rows: (M,) int64 row numbers.
        """
        chosen = torch.as_tensor(rows, dtype=torch.int64, device=self.states.device)
        pooled, time_ids = (part if part is None else take_rows(part, chosen) for part in self[1:])
        return Conditioning(take_rows(self.states, chosen), pooled, time_ids)

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Cast to another dtype."""
        pooled, time_ids = (part if part is None else part.to(dtype) for part in self[1:])
        return Conditioning(self.states.to(dtype), pooled, time_ids)

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate prompts of one model."""
        states, *others = zip(*parts, strict=True)
        pooled, time_ids = (None if column[0] is None else torch.cat(column) for column in others)
        return cls(torch.cat(states), pooled, time_ids)


def encode_prompts(pipeline: Any, prompts: Sequence[str], image_size: tuple[int, int]) -> Conditioning:
    """Encode prompts as the diffusers pipeline does, without truncation and with gradients.

    A name with several vectors expands to all of them, as after ``load_textual_inversion``.

    Args:
        pipeline: a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        prompts: B texts.
        image_size: height and width in pixels of the images; an input of SDXL.

    Raises:
        UserError: a prompt is longer than the tokenizer allows.
    """
    if _is_xl(pipeline):
        return _encode_xl(pipeline, prompts, image_size)
    encoder = pipeline.text_encoder
    ids = tokenize(pipeline.tokenizer, prompts).to(encoder.device)
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        mask = _mask(pipeline.tokenizer, ids)
    return Conditioning(encoder(ids, attention_mask=mask)[0])


def encode_unconditional(pipeline: Any, image_size: tuple[int, int]) -> Conditioning:
    """Encode the unconditional input of classifier-free guidance (Ho and Salimans, arXiv 2207.12598), one row.

    It is the empty prompt, or zeros if the pipeline has ``force_zeros_for_empty_prompt`` (SDXL).

    Args:
        pipeline: a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        image_size: height and width in pixels.
    """
    encoded = encode_prompts(pipeline, [""], image_size)
    if encoded.pooled is not None and pipeline.config.force_zeros_for_empty_prompt:
        return encoded._replace(states=encoded.states * 0, pooled=encoded.pooled * 0)
    return encoded


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Look rows up with a deterministic backward pass.

    Plain indexing adds the gradients of a repeated row in thread order; an embedding lookup adds them in the order of
    ``rows``.

    Args:
        table: (N, ...).
        rows: row numbers, int64, of any shape.

    Returns:
        (rows' shape, ...).
    """
    found = torch.nn.functional.embedding(rows, table.flatten(1))
    return found.unflatten(-1, table.shape[1:])


def unet_arguments(conditioning: Conditioning) -> dict[str, Any]:
    """Return the conditioning as arguments of ``UNet2DConditionModel.forward``."""
    arguments: dict[str, Any] = {"encoder_hidden_states": conditioning.states}
    if conditioning.pooled is not None:
        arguments["added_cond_kwargs"] = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
    return arguments


def text_encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """Return the pipeline's (tokenizer, text encoder) pairs: one, or two for SDXL."""
    pairs = [(pipeline.tokenizer, pipeline.text_encoder)]
    return [*pairs, (pipeline.tokenizer_2, pipeline.text_encoder_2)] if _is_xl(pipeline) else pairs


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Turn prompts into token ids, padded to the tokenizer's length.

    Args:
        tokenizer: a CLIP tokenizer. Names that were added to it with several vectors (``<x>``, ``<x>_1``, ...) are
            replaced by all of them, as ``maybe_convert_prompt`` of diffusers does.
        prompts: B texts.

    Returns:
        (B, T) int64, T being the tokenizer's ``model_max_length``.

    Raises:
        UserError: a prompt has more tokens than that.
    """
    rows = tokenizer(list(prompts), truncation=False).input_ids
    added = {number for row in rows for number in row if number >= tokenizer.vocab_size}
    vectors = {number: _all_vectors(tokenizer, number) for number in added}
    limit = tokenizer.model_max_length
    ids = torch.full((len(rows), limit), tokenizer.pad_token_id, dtype=torch.int64)
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        whole = [each for number in row for each in vectors.get(number, (number,))]
        if len(whole) > limit:
            raise UserError(
                f"A prompt is too long for the text encoder: {prompt!r}",
                looked_for=f"at most {limit} tokens, with the two that frame them",
                found=f"{len(whole)} tokens",
                remedy="use a shorter template, shorter captions or fewer vectors per identity",
            )
        ids[place, : len(whole)] = torch.tensor(whole)
    return ids


def _all_vectors(tokenizer: Any, number: int) -> list[int]:
    """Return the ids of a name and of its further vectors."""
    name, numbers = tokenizer.convert_ids_to_tokens(number), [number]
    while (more := tokenizer.convert_tokens_to_ids(f"{name}_{len(numbers)}")) not in (None, tokenizer.unk_token_id):
        numbers.append(more)
    return numbers


def _mask(tokenizer: Any, ids: Tensor) -> Tensor:
    """Mask the tokens up to the first end token, (B, T)."""
    closing = (ids == tokenizer.eos_token_id).int().cumsum(dim=1)
    return ((closing == 0) | ((closing == 1) & (ids == tokenizer.eos_token_id))).long()


def _encode_xl(pipeline: Any, prompts: Sequence[str], image_size: tuple[int, int]) -> Conditioning:
    """Concatenate the penultimate hidden states of both encoders (Podell et al., arXiv 2307.01952, section 2.1).

    The pooled state is that of the diffusers pipeline. With an ``eos_token_id`` of 2, as in published checkpoints,
    transformers takes it at the token with the highest id, which is the name if there is one: words after the name
    then reach the denoiser only by the other states.
    """
    states, pooled = [], None
    for tokenizer, encoder in text_encoders(pipeline):
        answer = encoder(tokenize(tokenizer, prompts).to(encoder.device), output_hidden_states=True)
        states.append(answer.hidden_states[-2])
        pooled = answer[0]  # the last encoder's, projected
    joined = torch.cat(states, dim=-1)
    size = torch.tensor([*image_size, 0, 0, *image_size], dtype=joined.dtype, device=joined.device)
    return Conditioning(joined, pooled, size.expand(len(prompts), -1))


def _is_xl(pipeline: Any) -> bool:
    return getattr(pipeline, "text_encoder_2", None) is not None
