"""Which images are learnt under which prompts, beside which prior images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffreid_lightning.diffusion.pipeline_io import load_autoencoder
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.datamodule import PersonalizationDataModule, swap_left_right
from diffreid_lightning.personalization.prior_images import CoarsePrior
from tests.fixtures.diffusion import SIZE


def data_of(source: Path, model: Path, folder: Path, **settings: Any) -> PersonalizationDataModule:
    data = PersonalizationDataModule(
        source=str(source), model=str(model), image_size=SIZE, cache_dir=str(folder / "latents"),
        **{"batch_size": 4} | settings,
    )  # fmt: skip
    data.prepare_data()
    return data


def prompts_of(data: PersonalizationDataModule, epochs: int = 1) -> list[str]:
    loader = data.train_dataloader()
    prompts = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        prompts += [prompt for batch in loader for prompt in batch.prompts]
    return prompts


def test_prompts_name_and_describe_and_only_training_images_of_people_are_read(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    data = data_of(people, checkpoints["sd1"], tmp_path, drop_circumstances=0.0)
    assert len(data.rows) == 16
    assert set(data.rows.numpy("split")) == {"train"}
    assert set(data.rows.numpy("role")) == {"identity"}
    assert sorted(prompts_of(data)) == sorted(
        ["a photo of <toy-0001>, a woman in a red coat"] * 2
        + ["a photo of <toy-0001>, a woman in a red coat, seen from behind"] * 2
        + ["a photo of <toy-0002>, a man in blue jeans"] * 2
        + ["a photo of <toy-0002>, a man in blue jeans, at night"] * 2
        + ["a photo of <toy-0003>, a boy"] * 4
        + ["a photo of <toy-0004>"] * 4
    )
    (always,) = {prompt for prompt in prompts_of(data_of(people, checkpoints["sd1"], tmp_path, drop_circumstances=1.0))
                 if "0002" in prompt}  # fmt: skip
    assert always == "a photo of <toy-0002>, a man in blue jeans"
    sometimes = prompts_of(data_of(people, checkpoints["sd1"], tmp_path, drop_circumstances=0.5), epochs=40)
    with_words = sum("at night" in prompt for prompt in sometimes)
    assert 0.3 < with_words / 80 < 0.7


def test_a_caption_stands_in_for_a_missing_description(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    manifest = Manifest.read(people)
    columns = {name: manifest.table[name] for name in manifest.columns if name not in ("description", "circumstances")}
    Manifest.from_columns(manifest.root, columns).write(tmp_path / "captioned.parquet")
    prompts = set(prompts_of(data_of(tmp_path / "captioned.parquet", checkpoints["sd1"], tmp_path)))
    assert "a photo of <toy-0001>, a woman in a red coat, seen from behind" in prompts
    assert "a photo of <toy-0004>" in prompts
    Manifest.from_columns(manifest.root, columns | {"caption": None}).write(tmp_path / "bare.parquet")
    prompts = set(prompts_of(data_of(tmp_path / "bare.parquet", checkpoints["sd1"], tmp_path)))
    assert prompts == {f"a photo of <toy-{pid:04d}>" for pid in (1, 2, 3, 4)}


def test_people_are_chosen(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    first = data_of(people, checkpoints["sd1"], tmp_path, identities=2)
    assert [identity.name for identity in first.identities] == ["<toy-0001>", "<toy-0002>"]
    assert np.bincount(first.rows.identities()[0]).tolist() == [4, 4]
    named = data_of(people, checkpoints["sd1"], tmp_path, identities=["<toy-0003>", "toy-0001"])
    assert [identity.name for identity in named.identities] == ["<toy-0001>", "<toy-0003>"]
    for asked, told in (
        (["toy-0009"], "There is no image of <toy-0009>"),
        (["toy-test-0005"], "other images only"),
        (9, "1 to 4"),
    ):
        with pytest.raises(UserError, match=told):
            data_of(people, checkpoints["sd1"], tmp_path, identities=asked)
    with pytest.raises(UserError, match="batch of 64"):
        data_of(people, checkpoints["sd1"], tmp_path, batch_size=64).train_dataloader()


def test_a_mirrored_image_has_its_own_latents_and_words(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    assert swap_left_right("Left side, LEFT") == "Right side, Right"
    assert swap_left_right("from the left, a bag in her right hand, leftover") == (
        "from the right, a bag in her left hand, leftover"
    )
    data = data_of(people, checkpoints["sd1"], tmp_path, flip=1.0)
    batch = next(iter(data.train_dataloader()))
    vae = load_autoencoder(checkpoints["sd1"])
    pixels = np.stack([np.asarray(data.rows.images.image(name)) for name in data.rows.table["file_name"].to_pylist()])
    images = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).flip(-1) / 127.5 - 1
    with torch.no_grad():
        means = vae.encode(images).latent_dist.mean
    distances = (batch.moments[:, None, :4] - means).flatten(2).abs().amax(dim=2)
    assert float(distances.amin(dim=1).max()) < 5e-3


def test_batches_hold_prior_images_under_their_own_prompts(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    prior = CoarsePrior(images=3, prompt="a man", steps=1, cache_dir=str(tmp_path))
    data = data_of(people, checkpoints["sd1"], tmp_path, prior=prior, prior_batch_size=3)
    drawn = torch.from_numpy(np.array(prior.open(data.model, ["a man"] * 3, SIZE, 0))).float()
    for batch in data.train_dataloader():
        assert (len(batch.moments), len(batch.prompts), len(batch.prior_prompts)) == (4, 4, 3)
        assert set(batch.prior_prompts) == {"a man"}
        distances = (batch.prior_latents[:, None] - drawn).flatten(2).abs().amax(dim=2)
        assert torch.equal(distances.amin(dim=1), torch.zeros(3))
    without = next(iter(data_of(people, checkpoints["sd1"], tmp_path).train_dataloader()))
    assert (without.prior_latents.shape, without.prior_prompts) == ((0, 4, 16, 8), [])


def test_prior_images_without_weight_are_refused_before_they_are_drawn(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    prior = CoarsePrior(images=3, prompt="a man", steps=1, cache_dir=str(tmp_path / "prior"))
    data = data_of(people, checkpoints["sd1"], tmp_path)
    data.prior = prior
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(prior_weight=0.0))  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"model\.prior_weight 0 beside data\.prior CoarsePrior"):
        data.prepare_data()
    assert not (tmp_path / "prior").exists()


def test_the_same_seed_gives_the_same_batches_whatever_the_loaders(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    prior = CoarsePrior(images=3, prompt="a man", steps=1, cache_dir=str(tmp_path))
    settings = {"prior": prior, "flip": 0.5, "drop_circumstances": 0.5}
    here, there = (
        list(data_of(people, checkpoints["sd1"], tmp_path, num_workers=workers, **settings).train_dataloader())
        for workers in (0, 2)
    )
    for one, two in zip(here, there, strict=True):
        assert one.prompts == two.prompts
        assert torch.equal(one.moments, two.moments)
        assert torch.equal(one.prior_latents, two.prior_latents)


def test_more_prior_images_than_images_are_not_the_same_again(
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    prior = CoarsePrior(images=40, prompt="a man", steps=1, draw_at_once=40, cache_dir=str(tmp_path))
    few, many = (
        next(iter(data_of(people, checkpoints["sd1"], tmp_path, prior=prior, prior_batch_size=size).train_dataloader()))
        for size in (4, 10)
    )
    assert len(many.prior_latents) == len(many.prior_prompts) == 10
    assert torch.equal(many.prior_latents[:4], few.prior_latents)
    assert len({each.numpy().tobytes() for each in many.prior_latents}) > 6, "drawn anew, not four over and over"
