"""Captions, rows and latents of the diffusion side."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffreid_lightning.datasets.samplers import Draw, ShuffledRows
from diffreid_lightning.diffusion.latent_cache import LatentStore
from diffreid_lightning.diffusion.pipeline_io import save_autoencoder
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.diffusion import AUTOENCODER, CAPTIONS, SIZE, corpus  # noqa: F401
from tests.unit.datasets.test_samplers import as_process
from tools.miniperson.captions import ManifestCaptions, captions_of
from tools.tiny_sd.architectures import build_autoencoder
from tools.tiny_sd.datamodules import (
    CaptionedLatentsDataModule,
    ImageDataModule,
    ManifestImages,
    number_values,
)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae") / "autoencoder"
    save_autoencoder(build_autoencoder(AUTOENCODER), folder, {})
    return folder


def test_captions_keep_their_first_part_and_lose_others_at_the_asked_rate() -> None:
    rng = np.random.default_rng(0)
    source = ManifestCaptions(drop=0.3)
    drawn = [source({"caption": "a woman, walking, at night"}, rng) for _ in range(4000)]
    assert all(caption.startswith("a woman") for caption in drawn)
    assert set(drawn) == {"a woman", "a woman, walking", "a woman, at night", "a woman, walking, at night"}
    assert np.mean(["walking" in caption for caption in drawn]) == pytest.approx(0.7, abs=0.03)
    assert ManifestCaptions()({"caption": "a woman, walking"}, rng) == "a woman, walking"
    assert ManifestCaptions()({"caption": None}, rng) == ""
    with pytest.raises(UserError, match="chance"):
        ManifestCaptions(drop=1.0)


def test_every_row_is_captioned_in_order(corpus: Path) -> None:  # noqa: F811
    manifest = Manifest.read(corpus)
    drawn = list(captions_of(manifest, ManifestCaptions(), np.random.default_rng(0)))
    assert drawn == [CAPTIONS[number % len(CAPTIONS)] for number in range(20)]


def test_an_epoch_visits_every_row_once_and_another_epoch_in_another_order() -> None:
    sampler = ShuffledRows(21, 4, seed=3)
    first = [draw.row for draw in sampler]
    assert len(first) == len(sampler) == 20
    assert max(Counter(first).values()) == 1
    assert [draw.row for draw in sampler] == first
    sampler.set_epoch(1)
    assert [draw.row for draw in sampler] != first
    assert len({draw.seed for draw in sampler}) == 20


def test_processes_share_an_epoch_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    rows = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        rows.append([draw.row for draw in ShuffledRows(100, 8, seed=1)])
    assert {len(each) for each in rows} == {32}
    assert len(set().union(*rows)) == 96


def test_a_draw_mirrors_at_its_seed(corpus: Path) -> None:  # noqa: F811
    manifest = Manifest.read(corpus)
    plain = torch.from_numpy(np.asarray(Image.open(corpus / "images/03.png"))).permute(2, 0, 1)
    images = ManifestImages(manifest, SIZE, flip=0.5)
    seen = Counter()
    for seed in range(40):
        view = images[Draw(3, seed)].images
        mirrored = torch.equal(view, plain.flip(-1))
        assert mirrored or torch.equal(view, plain)
        seen[mirrored] += 1
    assert min(seen.values()) > 8
    assert torch.equal(images[3].images, plain)


def test_the_image_module_keeps_the_splits_apart(corpus: Path) -> None:  # noqa: F811
    module = ImageDataModule(str(corpus), image_size=SIZE, batch_size=4, num_workers=0)
    assert sum(len(batch.images) for batch in module.train_dataloader()) == 16
    assert sum(len(batch.images) for batch in module.val_dataloader()) == 4
    batch = next(iter(module.val_dataloader()))
    assert float(module.on_after_batch_transfer(batch, 0).images.max()) <= 1


def test_latents_equal_the_autoencoders_own(corpus: Path, autoencoder: Path, tmp_path: Path) -> None:  # noqa: F811
    module = CaptionedLatentsDataModule(
        str(corpus), str(autoencoder), image_size=SIZE, batch_size=4, cache_dir=str(tmp_path)
    )
    module.prepare_data()
    (batch,) = module.val_dataloader()
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(autoencoder)
    pixels = np.stack([np.asarray(Image.open(corpus / f"images/{n:02d}.png"), np.float32) for n in range(16, 20)])
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    torch.testing.assert_close(batch.moments[:, :4], posterior.mean, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(batch.moments[:, 4:], posterior.logvar, atol=2e-3, rtol=2e-3)
    assert batch.captions == [CAPTIONS[number % 3] for number in range(16, 20)]


def test_a_stopped_encoding_goes_on_to_the_same_file(
    corpus: Path,  # noqa: F811
    autoencoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = Manifest.read(corpus)
    monkeypatch.setattr("diffreid_lightning.diffusion.latent_cache._PIXELS", 6 * SIZE[0] * SIZE[1])
    whole = LatentStore(str(autoencoder), str(tmp_path / "whole")).encode(manifest, SIZE)
    cut = LatentStore(str(autoencoder), str(tmp_path / "cut"))
    encode, batches = cut._moments, []

    def stop_at_the_third(images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(cut, "_moments", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        cut.encode(manifest, SIZE)
    file = cut._path(manifest, SIZE, mirrored=False)
    left = {path.name for path in file.parent.iterdir()}
    assert left == {file.with_suffix(".part").name, file.with_suffix(".done").name}
    again = cut.encode(manifest, SIZE)
    assert sum(batches) == 6 * 4 + 2, "the batch in flight is done again, the finished ones are not"
    np.testing.assert_array_equal(np.load(again), np.load(whole))
    assert [file.name for file in again.parent.iterdir()] == [again.name]


def test_another_autoencoder_or_size_has_latents_of_its_own(
    corpus: Path,  # noqa: F811
    autoencoder: Path,
    tmp_path: Path,
) -> None:
    manifest = Manifest.read(corpus)
    torch.manual_seed(1)
    save_autoencoder(build_autoencoder(AUTOENCODER), tmp_path / "other", {})
    stores = [LatentStore(str(path), str(tmp_path / "cache")) for path in (autoencoder, tmp_path / "other")]
    files = {store.encode(manifest, size) for store in stores for size in (SIZE, (16, 16))}
    assert len(files) == 4


def test_an_image_that_was_changed_in_its_place_is_encoded_anew(
    corpus: Path,  # noqa: F811
    autoencoder: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    store = LatentStore(str(autoencoder), str(tmp_path / "cache"))
    first = store.encode(Manifest.read(folder), SIZE)
    assert store.encode(Manifest.read(folder), SIZE) == first
    file = folder / "images/03.png"
    Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file)
    second = store.encode(Manifest.read(folder), SIZE)
    changed = (np.load(first) != np.load(second)).any(axis=(1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [3]


def test_a_source_without_training_rows_is_refused(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    manifest = Manifest.read(corpus)
    held_out = manifest.filter(np.asarray(manifest.numpy("split") == "val"))
    held_out.write(tmp_path / "only_val.parquet")
    with pytest.raises(UserError, match="train split"):
        ImageDataModule(str(tmp_path / "only_val.parquet"), image_size=SIZE).train_dataloader()


def test_fewer_images_than_a_batch_are_refused(
    corpus: Path,  # noqa: F811
    autoencoder: Path,
    tmp_path: Path,
) -> None:
    """Sixteen are trained on; an epoch without a batch would end in a model that has learnt nothing."""
    ImageDataModule(str(corpus), image_size=SIZE, batch_size=16).train_dataloader()
    with pytest.raises(UserError, match="too few images for one batch of 17"):
        ImageDataModule(str(corpus), image_size=SIZE, batch_size=17).train_dataloader()
    latents = CaptionedLatentsDataModule(
        str(corpus), str(autoencoder), image_size=SIZE, batch_size=17, cache_dir=str(tmp_path)
    )
    latents.prepare_data()
    with pytest.raises(UserError, match="too few images for one batch of 17"):
        latents.train_dataloader()


def test_a_batch_is_on_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    as_process(monkeypatch, 1, 2)
    assert len(ShuffledRows(32, 16)) == 16
    with pytest.raises(UserError, match=r"(?s)per process.*31 images, 2 processes"):
        ShuffledRows(31, 16)


@pytest.mark.parametrize(("name", "least"), [("batch_size", 1), ("num_workers", 0)])
def test_numbers_out_of_their_range_are_refused(corpus: Path, name: str, least: int) -> None:  # noqa: F811
    with pytest.raises(UserError, match=f"data.{name} must be at least {least}"):
        ImageDataModule(str(corpus), **{name: least - 1})  # type: ignore[arg-type]


def test_values_are_numbered_by_the_training_rows(corpus: Path) -> None:  # noqa: F811
    manifest = Manifest.read(corpus)
    train, other = manifest.take([0, 1, 4]), manifest.take([2, 3])
    numbers = number_values(train, ["caption"], train)
    ordered = sorted({CAPTIONS[0], CAPTIONS[1]})
    assert numbers.flatten().tolist() == [ordered.index(CAPTIONS[row % 3]) for row in (0, 1, 4)]
    expected = [ordered.index(CAPTIONS[row % 3]) if CAPTIONS[row % 3] in ordered else -1 for row in (2, 3)]
    assert number_values(other, ["caption"], train).flatten().tolist() == expected
    with pytest.raises(UserError, match="no column 'shoes'"):
        number_values(train, ["shoes"], train)
