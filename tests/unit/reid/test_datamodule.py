"""The DataModule: what each stage may see, and what a source contributes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffreid_lightning.datasets import DukeMTMCReID, Market1501, PersonFolder
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.datasets.holdout import first_per_camera, hold_out_identities, trainable_rows
from diffreid_lightning.datasets.samplers import Draw, PKSampler, ShuffledRows
from diffreid_lightning.datasets.transforms import TrainView
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.person_images import PersonBatch
from tests.fixtures.dataset_layouts import write_dukemtmcreid, write_market1501, write_person_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts.*")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market1501(tmp_path_factory.mktemp("data") / "market", train_ids=range(2, 12))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_no_stage_sees_anothers_rows(market: Path, share: float, seed: int) -> None:
    module = ReIDDataModule(str(market), val_share=share, seed=seed, image_size=(64, 32))
    assert module.val_set is not None
    train, val, test = (set(s.rows.file_names.to_pylist()) for s in (module.train_set, module.val_set, module.test_set))
    assert not train & val
    assert not (train | val) & test
    assert all(name.startswith("bounding_box_train/") for name in train | val), "query and gallery are for test alone"
    assert not set(module.train_set.rows.identities) & set(module.val_set.rows.identities)
    assert len(module.val_set.rows.identities) == int(np.ceil(10 * share))
    assert module.num_identities == 10 - len(module.val_set.rows.identities)


def test_nothing_held_out_trains_on_everything(market: Path) -> None:
    module = ReIDDataModule(str(market), val_share=0, image_size=(64, 32))
    assert module.val_set is None
    assert module.val_dataloader() == []
    assert module.num_identities == 10


def test_the_held_out_choice_follows_the_seed_and_skips_what_cannot_be_evaluated(tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 12))
    for path in (root / "bounding_box_train").glob("0002_c[26]*"):
        path.unlink()  # person 2 is left in one camera
    manifest = Market1501(root).manifest()
    masks = [hold_out_identities(manifest, 0.5, seed) for seed in range(6)]
    assert all(2 not in manifest.numpy("pid")[mask] for mask in masks)
    assert len({mask.tobytes() for mask in masks}) > 1
    assert (masks[0] == hold_out_identities(manifest, 0.5, 0)).all()


def test_validation_has_market_like_queries(market: Path) -> None:
    manifest = Market1501(market).manifest()
    manifest = manifest.filter(np.asarray(manifest.numpy("split")) == "train")
    mask = first_per_camera(manifest)
    pairs = set(zip(manifest.numpy("pid").tolist(), manifest.numpy("camid").tolist(), strict=True))
    assert mask.sum() == len(pairs)


def test_equal_pids_of_two_sources_are_two_people_and_two_cameras(market: Path, tmp_path: Path) -> None:
    duke = write_dukemtmcreid(tmp_path / "duke", train_ids=range(2, 12))
    one, two = Market1501(market).manifest(), DukeMTMCReID(duke).manifest()
    both = concatenate([one, two])
    split = len(one)
    assert not set(both.labels[:split]) & set(both.labels[split:])
    assert not set(both.camids[:split]) & set(both.camids[split:])
    again = concatenate([one, one])
    assert (again.labels[:split] == again.labels[split:]).all(), "the same source twice is the same people"
    assert both.image(split).size == (16, 32)


def test_a_training_view_follows_its_seed_alone(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    module = ReIDDataModule(str(market), image_size=(64, 32), train_view=TrainView(color=0.3))
    before = torch.random.get_rng_state()
    views = [module.train_set[Draw(3, seed)].image for seed in (5, 5, 6)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert torch.equal(before, torch.random.get_rng_state()), "augmentation leaves the model's random stream alone"
    assert not seeded, "nor is it seeded on the GPU, where dropout draws from it"
    assert views[0].dtype == torch.uint8
    assert views[0].shape == (3, 64, 32)


def test_a_batch_is_p_times_k_of_floats_on_the_device(market: Path) -> None:
    module = ReIDDataModule(
        str(market), image_size=(64, 32), num_workers=0, sampler=lambda labels: PKSampler(labels, 3, 2)
    )
    batch = next(iter(module.train_dataloader()))
    assert isinstance(batch, PersonBatch)
    assert batch.labels.view(3, 2).unique(dim=1).shape == (3, 1)
    images = module.on_after_batch_transfer(batch, 0).images
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize(("arguments", "words"), [({"val_share": 1.0}, "val_share"), ({"train": []}, "no source")])
def test_impossible_settings(market: Path, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ReIDDataModule(**{"train": str(market), **arguments})  # type: ignore[arg-type]


def test_two_folders_that_share_names_are_refused(tmp_path: Path) -> None:
    one, two = (write_person_folder(tmp_path / name) for name in "ab")
    with pytest.raises(UserError, match="have the same source"):
        ReIDDataModule([str(one), str(two)], image_size=(64, 32)).num_identities  # noqa: B018
    renamed = PersonFolder(two, source="others")
    module = ReIDDataModule([str(one), renamed], image_size=(64, 32), val_share=0)
    assert module.num_identities == 2 * ReIDDataModule(str(one), image_size=(64, 32), val_share=0).num_identities


def test_generated_people_of_unnamed_folders_are_not_merged_in_silence(tmp_path: Path) -> None:
    made = []
    for name in "ab":
        rows = PersonFolder(write_person_folder(tmp_path / name)).manifest()
        made.append(as_generated(rows.filter(rows.numpy("split") == "train")))
        made[-1].write(tmp_path / name)
    both = [str(tmp_path / name) for name in "ab"]
    with pytest.warns(UserWarning, match="count as the same people.*source: NAME"):
        ReIDDataModule(both, image_size=(64, 32), val_share=None).num_identities  # noqa: B018
    others = made[1].with_columns({"source": "others"})
    others.write(tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = ReIDDataModule(both, image_size=(64, 32), val_share=None)
        assert module.num_identities == 2 * len(made[0].identities()[1])


def test_generated_images_of_held_out_people_stay_out(market: Path) -> None:
    manifest = Market1501(market).manifest()
    train = manifest.filter(np.asarray(manifest.numpy("split")) == "train")
    held_out = {("market1501", "train", 3)}
    kept = train.filter(trainable_rows(train, held_out))
    assert set(train.numpy("pid").tolist()) - set(kept.numpy("pid").tolist()) == {3}
    generated = as_generated(train)
    assert 3 not in generated.filter(trainable_rows(generated, held_out)).numpy("pid")
    assert len(generated.filter(trainable_rows(generated, held_out))) == len(kept)


def as_generated(manifest: Manifest, **columns: Any) -> Manifest:
    """The same rows as if a generator had made them."""
    count = len(manifest)
    made = {"split": ["generated"] * count, "source_pid": manifest.numpy("pid"), "prompt": [""] * count}
    made |= {"attributes": [""] * count, "seed": list(range(count)), "generator": ["x"] * count}
    return manifest.with_columns(made | columns)


def train_rows(market: Path) -> Manifest:
    manifest = Market1501(market).manifest()
    return manifest.filter(np.asarray(manifest.numpy("split")) == "train")


def test_a_generated_image_has_a_camera_of_its_own(market: Path) -> None:
    train = train_rows(market)
    both = concatenate([train, as_generated(train)])  # with the very numbers of the real cameras
    assert both.generated.tolist() == [False] * len(train) + [True] * len(train)
    assert not set(both.camids[: len(train)]) & set(both.camids[len(train) :])
    assert (both.labels[: len(train)] == both.labels[len(train) :]).all()
    np.testing.assert_array_equal(both.camids[: len(train)], concatenate([train]).camids)


def test_generated_images_count_by_their_score_and_real_ones_fully(market: Path, tmp_path: Path) -> None:
    train = train_rows(market)
    scores = np.linspace(0, 1, len(train))
    as_generated(train, confidence=scores).write(tmp_path / "generated")
    sources = [str(market), str(tmp_path / "generated")]
    arguments: dict[str, Any] = {"image_size": (64, 32), "val_share": 0.0, "num_workers": 0}
    arguments["sampler"] = lambda labels: PKSampler(labels, 4, 2)
    module = ReIDDataModule(sources, sample_weight="confidence", **arguments)  # type: ignore[arg-type]
    expected = np.concatenate([np.ones(len(train)), scores]).astype(np.float32)
    np.testing.assert_array_equal(module.train_set.weights, expected)
    batch = next(iter(module.train_dataloader()))
    np.testing.assert_array_equal(batch.weights, expected[batch.indices])
    plain = ReIDDataModule(sources, **arguments)  # type: ignore[arg-type]
    assert next(iter(plain.train_dataloader())).weights is None
    with pytest.raises(UserError, match="no column 'confidense'"):
        _ = ReIDDataModule(sources, sample_weight="confidense", **arguments).train_set  # type: ignore[arg-type]
    columns: dict[str, Any] = {"confidence": [None, *scores[1:]], "own_score": [float("inf"), *scores[1:]]}
    as_generated(train, **columns).write(tmp_path / "generated")
    for column in columns:
        with pytest.raises(UserError, match=f"cannot be weighed by '{column}'"):
            _ = ReIDDataModule(sources, sample_weight=column, **arguments).train_set  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be weighed by 'file_name'"):
        _ = ReIDDataModule(sources, sample_weight="file_name", **arguments).train_set  # type: ignore[arg-type]
    with pytest.raises(UserError, match="weighs generated images, and there are none"):
        _ = ReIDDataModule(sources[0], sample_weight="confidence", **arguments).train_set
    with pytest.raises(UserError, match="names no source"):
        ReIDDataModule(None)  # type: ignore[arg-type]  # as `--data.train null` gives it


def test_the_share_of_generated_images_reaches_the_batches(market: Path, tmp_path: Path) -> None:
    as_generated(train_rows(market)).write(tmp_path / "generated")
    module = ReIDDataModule(
        [str(market), str(tmp_path / "generated")], image_size=(64, 32), val_share=0.0, num_workers=0,
        sampler=lambda labels: PKSampler(labels, 4, 4, generated_share=0.25),
    )  # fmt: skip
    for batch in module.train_dataloader():
        assert module.train_set.rows.generated[batch.indices].reshape(4, 4).sum(axis=1).tolist() == [1] * 4


def test_a_sources_own_val_split_alone_is_held_out_by_null(market: Path, tmp_path: Path) -> None:
    manifest = train_rows(market)
    split = np.where(manifest.numpy("pid") < 4, "val", "train").tolist()
    manifest.with_columns({"split": split}).write(tmp_path / "own")
    for source, held_out in ((market, 0), (tmp_path / "own", 2)):
        module = ReIDDataModule(str(source), val_share=None, image_size=(64, 32))
        assert module.num_identities == 10 - held_out
        assert (0 if module.val_set is None else len(module.val_set.rows.identities)) == held_out


def test_distractors_of_a_val_split_are_gallery_and_nothing_else(market: Path, tmp_path: Path) -> None:
    manifest = train_rows(market)
    pid, split = manifest.numpy("pid"), np.asarray(manifest.numpy("split"), dtype=object)
    split[pid < 6] = "val"
    role = np.where(pid == 4, "distractor", "identity")
    nobody = np.where(role == "distractor", 0, pid)
    columns = {"split": split.tolist(), "role": role.tolist(), "pid": nobody}
    manifest.with_columns(columns).write(tmp_path / "own")
    held_out = ReIDDataModule(str(tmp_path / "own"), val_share=None, image_size=(64, 32))
    assert held_out.val_set is not None
    people, rows = held_out.val_set.rows.identities, held_out.val_set.rows
    pids = np.asarray([people[label][2] for label in rows.labels])
    assert set(pids[held_out.val_set.is_query].tolist()) == {2, 3, 5}
    assert set(pids[~held_out.val_set.is_query].tolist()) == {0, 2, 3, 5}
    trained_on = [2, 3, 5, *range(6, 12)]
    all_of_them = ReIDDataModule(str(tmp_path / "own"), val_share=0.0, image_size=(64, 32))
    for module, expected in ((held_out, trained_on[3:]), (all_of_them, trained_on)):
        assert [key[2] for key in module.train_set.rows.identities] == expected


def test_all_training_rows_are_seen_once_in_order(market: Path) -> None:
    module = ReIDDataModule(str(market), val_share=0.0, image_size=(64, 32), num_workers=0, eval_batch_size=7)
    indices = torch.cat([batch.indices for batch in module.seen_dataloader()])
    assert indices.tolist() == list(range(len(module.train_set)))


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_make_the_same_batches_without_their_files(market: Path, tmp_path: Path, workers: int) -> None:
    root = Path(shutil.copytree(market, tmp_path / "market"))
    modules = [
        ReIDDataModule(
            str(root), val_share=0.0, image_size=(48, 20), num_workers=workers, sampler=few, cache_images=kept
        )
        for kept in (False, True)
    ]
    expected = [batch.images for batch in modules[0].train_dataloader()]
    assert len(list(modules[1].seen_dataloader())) == 1  # every image
    shutil.rmtree(root / "bounding_box_train")
    found = [batch.images for batch in modules[1].train_dataloader()]
    assert len(found) > 1 and all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def few(labels: Sequence[int]) -> PKSampler:
    return PKSampler(labels, 5, 4)


def test_rows_can_be_shuffled_in_place_of_identities(market: Path) -> None:
    data = ReIDDataModule(str(market), image_size=(64, 32), num_workers=0, sampler=lambda rows: ShuffledRows(rows, 8))
    batches = list(data.train_dataloader())
    assert {len(batch.labels) for batch in batches} == {8} and len(batches) == len(data.train_set) // 8


def test_a_validation_that_cannot_be_measured_is_refused_beforehand(tmp_path: Path, market: Path) -> None:
    ReIDDataModule(str(market), val_share=0.2, image_size=(64, 32)).refuse_unanswerable_validation()
    ReIDDataModule(str(market), val_share=0.0, image_size=(64, 32)).refuse_unanswerable_validation()
    manifest = Market1501(market).manifest()
    manifest = manifest.filter(manifest.numpy("split") == "train")
    held = manifest.numpy("pid") < 5
    split, camera = np.where(held, "val", "train"), np.where(held, 0, manifest.numpy("camid"))
    manifest.with_columns({"split": split.tolist(), "camid": camera}).write(tmp_path / "one")
    data = ReIDDataModule(str(tmp_path / "one"), val_share=None, image_size=(64, 32))
    with pytest.raises(UserError, match="None of the held-out identities can be searched for"):
        data.refuse_unanswerable_validation()
