from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.instruments import pipeline_sampling
from experiments.instruments.pipeline_sampling import Sampler, sample

PROMPTS, SEEDS = [f"a woman wearing a red coat, {number}" for number in range(7)], list(range(7))


class Stub:
    """Images that hold their prompt's length and their seed's noise; it can break down after some calls."""

    def __init__(self, calls: int = 100) -> None:
        self.left = calls
        self.asked: list[str] = []

    def to(self, device: torch.device) -> Stub:
        return self

    def set_progress_bar_config(self, disable: bool) -> None:
        assert disable

    def __call__(self, prompts, *, generator, height, width, **kwargs):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += prompts
        images = [torch.rand(height, width, 3, generator=each).numpy() for each in generator]
        return SimpleNamespace(images=np.stack(images))


def test_sampling_goes_on_with_the_batch_it_was_at(tmp_path, pipeline_folder, monkeypatch):
    sampler = Sampler(batch_size=3)
    whole, broken, rest = Stub(), Stub(calls=2), Stub()
    monkeypatch.setattr(pipeline_sampling, "load_pipeline", lambda folder: whole)
    expected = sample(pipeline_folder, PROMPTS, SEEDS, sampler, tmp_path / "whole")
    monkeypatch.setattr(pipeline_sampling, "load_pipeline", lambda folder: broken)
    with pytest.raises(KeyboardInterrupt):
        sample(pipeline_folder, PROMPTS, SEEDS, sampler, tmp_path / "cut")
    monkeypatch.setattr(pipeline_sampling, "load_pipeline", lambda folder: rest)
    found = sample(pipeline_folder, PROMPTS, SEEDS, sampler, tmp_path / "cut")
    assert whole.asked == PROMPTS
    assert rest.asked == PROMPTS[6:]
    assert torch.equal(found, expected)
    assert expected.shape == (7, 3, 128, 64)
    assert expected.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in expected}) == 7
    assert [path.suffix for path in (tmp_path / "cut").iterdir()] == [".npy"]
    assert torch.equal(sample(pipeline_folder, PROMPTS, SEEDS, sampler, tmp_path / "cut"), expected)
    assert rest.asked == PROMPTS[6:]


def test_another_model_prompt_seed_or_setting_is_sampled_anew(tmp_path, pipeline_folder, monkeypatch):
    monkeypatch.setattr(pipeline_sampling, "load_pipeline", lambda folder: Stub())
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.5}))
    work = tmp_path / "work"
    for pipeline, prompts, seeds, sampler in (
        (pipeline_folder, PROMPTS, SEEDS, Sampler()),
        (other, PROMPTS, SEEDS, Sampler()),
        (pipeline_folder, PROMPTS[::-1], SEEDS, Sampler()),
        (pipeline_folder, PROMPTS, SEEDS[::-1], Sampler()),
        (pipeline_folder, PROMPTS, SEEDS, Sampler(steps=9)),
        (pipeline_folder, PROMPTS, SEEDS, Sampler(guidance=9.0)),
    ):
        before = len(list(work.glob("*.npy")))
        sample(pipeline, prompts, seeds, sampler, work)
        assert len(list(work.glob("*.npy"))) == before + 1


def test_a_pipeline_draws_by_prompt_and_seed(tmp_path, pipeline_folder):
    texts = ["a woman wearing a red coat", "a man wearing black jeans", "a woman wearing a red coat"]
    images = sample(pipeline_folder, texts, [5, 5, 6], Sampler(steps=2, batch_size=2), tmp_path)
    assert images.shape == (3, 3, 128, 64)
    assert len({image.numpy().tobytes() for image in images}) == 3
