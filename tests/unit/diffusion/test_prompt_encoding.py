"""Prompts are encoded as the stock pipelines encode them, and never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.diffusion.prompt_encoding import (
    Conditioning,
    encode_prompts,
    encode_unconditional,
    take_rows,
    tokenize,
    unet_arguments,
)
from diffreid_lightning.errors import UserError
from diffreid_lightning.personalization.checkpoint import add_tokens
from tests.fixtures.checkpoint_layouts import LAYOUTS
from tests.fixtures.diffusion import SIZE

PROMPTS = ["a woman in a red coat next to <toy-0001>, at night", "", "<toy-0002>", "<toy-0001><toy-0001> a man"]
NAMES = ["<toy-0001>", "<toy-0002>"]


def stock_encoding(pipeline: Any, prompts: list[str], negative: str | None = None) -> Conditioning:
    """What the pipeline's own ``encode_prompt`` says, positive prompts first, then their absence."""
    answer = pipeline.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    states = torch.cat(answer[:2])
    return Conditioning(states) if len(answer) == 2 else Conditioning(states, torch.cat(answer[2:]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("vectors", [1, 3])
def test_prompts_and_their_absence_are_those_of_the_stock_pipeline(
    checkpoints: dict[str, Path], layout: str, vectors: int
) -> None:
    pipeline, stock = load_pipeline(checkpoints[layout]), load_pipeline(checkpoints[layout])
    widths = [16, 24] if layout == "sdxl" else [16]
    tokens = [torch.randn(2, vectors, width, generator=torch.Generator().manual_seed(0)) for width in widths]
    add_tokens(pipeline, NAMES, tokens)
    seconds = [
        {},
        {"tokenizer": getattr(stock, "tokenizer_2", None), "text_encoder": getattr(stock, "text_encoder_2", None)},
    ]
    for table, where in zip(tokens, seconds, strict=False):
        stock.load_textual_inversion(table[:, 0] if vectors == 1 else table, token=list(NAMES), **where)
    with torch.no_grad():
        ours = encode_prompts(pipeline, PROMPTS, SIZE)
        both = Conditioning.cat([ours, *[encode_unconditional(pipeline, SIZE)] * len(PROMPTS)])
        theirs = stock_encoding(stock, PROMPTS)
    assert torch.equal(both.states, theirs.states)
    if layout == "sdxl":
        assert theirs.pooled is not None and both.pooled is not None and both.time_ids is not None
        assert torch.equal(both.pooled, theirs.pooled)
        wanted = stock._get_add_time_ids(SIZE, (0, 0), SIZE, dtype=torch.float32, text_encoder_projection_dim=20)
        assert torch.equal(both.time_ids, wanted.repeat(len(both.states), 1))
    # The denoiser takes what comes of it.
    timesteps = torch.arange(len(both.states))
    answer = pipeline.unet(torch.randn(len(both.states), 4, 16, 8), timesteps, **unet_arguments(both)).sample
    assert answer.shape == (len(both.states), 4, 16, 8)


def test_rows_are_taken_and_put_together(checkpoints: dict[str, Path]) -> None:
    pipeline = load_pipeline(checkpoints["sdxl"])
    with torch.no_grad():
        three = encode_prompts(pipeline, ["a man", "a boy", "a woman"], SIZE)
        two = encode_prompts(pipeline, ["a woman", "a man"], SIZE)
    chosen = Conditioning.cat([three.take([2]), three.take(torch.tensor([0]))])
    for ours, theirs in zip(chosen, two, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_prompt_beyond_the_limit_is_named_with_the_limit(checkpoints: dict[str, Path]) -> None:
    pipeline = load_pipeline(checkpoints["sd1"])
    add_tokens(pipeline, ["<long>"], [torch.zeros(1, 20, 16)])
    assert tokenize(pipeline.tokenizer, ["<long> a man"]).shape == (1, 24)
    for prompt in ("red " * 23, "<long> a man in a red coat"):
        with pytest.raises(UserError) as refused:
            encode_prompts(pipeline, ["a man", prompt], SIZE)
        assert prompt in str(refused.value)
        assert "24 tokens" in str(refused.value)


def test_rows_that_are_taken_often_have_the_gradient_of_plain_indexing_each_time_alike(two_threads: None) -> None:
    source = torch.Generator().manual_seed(0)
    table = torch.randn(3, 40, 64, generator=source, requires_grad=True)
    chosen = torch.randint(3, (64,), generator=source)
    towards = torch.randn(64, 40, 64, generator=source)

    def gradient(rows: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((rows * towards).sum(), table)[0]

    first = gradient(take_rows(table, chosen))
    assert torch.equal(take_rows(table, chosen), table[chosen])
    torch.testing.assert_close(first, gradient(table[chosen]))
    assert all(torch.equal(gradient(take_rows(table, chosen)), first) for _ in range(20))
    assert all(torch.equal(gradient(Conditioning(table).take(chosen).states), first) for _ in range(20))
