"""Prior images: which prompts they have, that they are the base model's, drawn once, and taken up where stopped."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.errors import UserError
from diffreid_lightning.personalization import prior_images as subject
from diffreid_lightning.personalization.prior_images import CoarsePrior, FineGrainedPrior, PriorImages
from tests.fixtures.diffusion import SIZE

WORDS = [
    [("a woman in red", "at night"), ("a woman in red", "from behind"), ("a woman in red", "")],
    [("a man in blue", "walking")],
    [("", "")],
]


def test_fine_prompts_describe_everybody_and_name_nobody() -> None:
    template = PromptTemplate("a photo of {identity}, {description}, {circumstances}")
    prompts = FineGrainedPrior(images_per_identity=3).prompts(WORDS, template, seed=0)
    assert len(prompts) == 9
    assert Counter(prompts) == {
        "a photo of a woman in red, at night": 1,
        "a photo of a woman in red, from behind": 1,
        "a photo of a woman in red": 1,
        "a photo of a man in blue, walking": 3,
        "a photo of a person": 3,
    }


def test_nothing_guides_unless_it_is_asked_for() -> None:
    assert FineGrainedPrior().guidance == CoarsePrior().guidance == 1.0


def test_images_of_another_precision_are_other_images(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = FineGrainedPrior(cache_dir=str(tmp_path))
    files = set()
    for precision in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(subject, "_precision", lambda precision=precision: precision)
        files.add(prior._path(str(checkpoints["sd1"]), ["a man"], SIZE, 0))
    assert len(files) == 2


def test_coarse_prompts_are_one() -> None:
    prompts = CoarsePrior(images=5).prompts(WORDS, PromptTemplate(), seed=0)
    assert prompts == ["a photo of a person"] * 5


@pytest.mark.parametrize(("layout", "guidance"), [("sd2", 3.0), ("sdxl", 1.0)])
def test_prior_images_are_what_the_stock_pipeline_draws(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, guidance: float
) -> None:
    given = {} if guidance == 1 else {"guidance": guidance}  # none is the default
    prior = FineGrainedPrior(steps=3, scheduler="DDIMScheduler", draw_at_once=2, cache_dir=str(tmp_path), **given)
    prompts, model = ["a man", "a boy", "a woman"], str(checkpoints[layout])
    prior.draw(model, prompts, SIZE, seed=4)
    latents = prior.open(model, prompts, SIZE, seed=4)
    assert latents.shape == (3, 4, 16, 8)
    pipeline = subject.load_pipeline(model)
    pipeline.scheduler = subject.Sampler(pipeline.scheduler, "DDIMScheduler", {}, 3).scheduler
    drawn = pipeline(
        "a woman", height=SIZE[0], width=SIZE[1], num_inference_steps=3, guidance_scale=guidance, output_type="latent",
        generator=torch.Generator().manual_seed(subject._seed(4, 2)),
    ).images[0]  # fmt: skip
    torch.testing.assert_close(torch.from_numpy(np.array(latents[2])).float(), drawn, atol=5e-3, rtol=1e-2)


def test_they_are_drawn_once_and_an_interrupted_run_goes_on(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = str(checkpoints["sd1"]), ["a man", "a boy", "a woman", "a red coat", "blue jeans"]
    calls: list[int] = []
    draw = StableDiffusionPipeline.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["prompt_embeds"]))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", counted)
    whole, cut = (CoarsePrior(steps=2, draw_at_once=2, cache_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    stop = 0
    whole.draw(model, prompts, SIZE, seed=0)
    assert calls == [2, 2, 1]
    calls.clear()
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        cut.draw(model, prompts, SIZE, seed=0)
    stop = 0
    cut.draw(model, prompts, SIZE, seed=0)
    assert calls == [2, 2, 2, 1]
    cut.draw(model, prompts, SIZE, seed=0)
    assert len(calls) == 4
    one, two = (each.open(model, prompts, SIZE, seed=0) for each in (whole, cut))
    assert np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])


def test_an_unknown_scheduler_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    prior = CoarsePrior(images=1, scheduler="DDIMSchedular", cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="DDIMScheduler"):
        prior.draw(str(checkpoints["sd1"]), ["a man"], SIZE, seed=0)


def test_images_of_another_schedule_are_other_images(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(checkpoints["sd1"], tmp_path / "other")
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.02}))
    prior = CoarsePrior(images=1, steps=2, cache_dir=str(tmp_path / "cache"))
    drawn = []
    for model in (checkpoints["sd1"], other):
        prior.draw(str(model), ["a man"], SIZE, seed=0)
        drawn.append(np.array(prior.open(str(model), ["a man"], SIZE, seed=0)))
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: CoarsePrior(images=0), "CoarsePrior.images must"),
        (lambda: CoarsePrior(draw_at_once=0), "CoarsePrior.draw_at_once must"),
        (lambda: FineGrainedPrior(images_per_identity=0), "FineGrainedPrior.images_per_identity must"),
        (lambda: FineGrainedPrior(steps=0), "FineGrainedPrior.steps must"),
    ],
)
def test_numbers_that_draw_nothing_are_refused(make: Callable[[], PriorImages], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()
