"""From an unlabeled folder to batches of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffreid_lightning.datasets import CropFolder, Market1501, open_unlabeled
from diffreid_lightning.errors import UserError
from diffreid_lightning.unsupervised.cluster_sampler import ClusterSampler
from diffreid_lightning.unsupervised.datamodule import NOBODY, UnlabeledDataModule
from tests.fixtures.dataset_layouts import picture, write_market1501

LAYOUTS = {
    "flat": (["a.jpg", "b.png", "c.jpg"], [0, 0, 0], "unknown"),
    "named": (["cam1_0001.jpg", "cam2_0002.jpg", "x/cam12_3.jpg"], [1, 2, 12], "from the names"),
    "camera and sequence": (["c1s1_01.jpg", "c3s2_04.jpg"], [1, 3], "from the names"),
    "folders": (["door/1.jpg", "hall/1.jpg", "hall/2.jpg"], [0, 1, 1], "from the folders"),
    "camera folders": (["cam_4/day1/1.jpg", "cam_7/day1/1.jpg"], [4, 7], "from the names"),
    "days": (["1/2/a.jpg", "1/3/b.jpg"], [0, 0], "unknown"),
    "one folder": (["crops/a.jpg", "crops/b.jpg"], [0, 0], "unknown"),
    "scam": (["scam1.jpg", "scam2.jpg"], [0, 0], "unknown"),
}


def put(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number, 1))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_are_taken_from_names_or_folders_when_there(layout: str, tmp_path: Path) -> None:
    names, cameras, source = LAYOUTS[layout]
    dataset = CropFolder(put(tmp_path, names))
    manifest = dataset.manifest()
    rows = dict(zip(manifest.table["file_name"].to_pylist(), manifest.numpy("camid").tolist(), strict=True))
    assert rows == dict(zip(names, cameras, strict=True))
    assert source in dataset.description
    assert set(manifest.numpy("split").tolist()) == {"train"}


def test_a_pattern_says_where_the_camera_is(tmp_path: Path) -> None:
    root = put(tmp_path, ["k2-a.jpg", "k5-b.jpg"])
    assert CropFolder(root, pattern=r"k(?P<camera>\d)").manifest().numpy("camid").tolist() == [2, 5]
    for pattern, word in (
        (r"k(\d)", "group named camera"),
        (r"k(?P<camera>2)", "1 of 2"),
        (r"k(?P<camera>2)?", "1 of 2"),
        ("(", "not a regular expression"),
    ):
        with pytest.raises(UserError, match=word):
            CropFolder(root, pattern=pattern).manifest()


def test_a_known_layout_is_read_as_what_it_is_and_anything_else_as_crops(tmp_path: Path) -> None:
    assert isinstance(open_unlabeled(write_market1501(tmp_path / "market")), Market1501)
    assert isinstance(open_unlabeled(put(tmp_path / "crops", ["1.jpg"])), CropFolder)
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere"):
        with pytest.raises(UserError):
            open_unlabeled(tmp_path / missing)


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_hold_whole_clusters_and_no_outlier(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([-1, 0, 1, 2, 0, 1, 2, 3, 0, -1, 4, 4])
    batches = []
    for rank in range(processes):
        sampler = ClusterSampler(labels.tolist(), clusters_per_batch=3, images_per_cluster=2, batches=6 // processes)
        sampler.num_replicas, sampler.rank = processes, rank
        sampler.set_epoch(4)
        draws = list(sampler)
        assert len(draws) == len(sampler) == 6 // processes * 6
        batches.append(np.array([draw.row for draw in draws]).reshape(-1, 3, 2))
    everything = np.stack(batches, axis=1).reshape(-1, 3, 2)
    assert (labels[everything] >= 0).all()
    assert (labels[everything] == labels[everything][:, :, :1]).all()
    assert all(len(set(labels[batch][:, 0])) == 3 for batch in everything)
    one = ClusterSampler(labels.tolist(), clusters_per_batch=3, images_per_cluster=2, batches=6)
    one.set_epoch(4)
    assert [draw.row for draw in one] == everything.ravel().tolist(), "the processes share one epoch"


def test_fewer_clusters_than_a_batch_holds_are_drawn_more_than_once() -> None:
    sampler = ClusterSampler([0, 0, 1, 1], clusters_per_batch=5, images_per_cluster=2, batches=3)
    labels = np.array([0, 0, 1, 1])[[draw.row for draw in sampler]].reshape(3, 5, 2)
    assert (labels == labels[:, :, :1]).all()
    assert all(set(batch.ravel()) == {0, 1} for batch in labels)


def test_new_labels_change_the_next_epoch_and_not_its_length() -> None:
    sampler = ClusterSampler([0, 0, 1, 1], clusters_per_batch=2, images_per_cluster=1, batches=4)
    length = len(sampler)
    sampler.labels = np.array([-1, 0, 1, -1])
    assert {draw.row for draw in sampler} == {1, 2}
    assert len(sampler) == length


def test_identities_are_gone_from_the_rows_and_kept_for_the_evaluation(tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 6))
    data = UnlabeledDataModule(str(root), image_size=(16, 8), num_workers=0)
    rows = data.train_set.rows
    assert rows.identities == (NOBODY,) and set(rows.labels.tolist()) == {0}
    truth = data.true_labels()
    assert truth is not None and len(set(truth.tolist())) == 4
    assert data.has_test
    held_out = UnlabeledDataModule(str(root), image_size=(16, 8), num_workers=0, val_share=0.5)
    assert held_out.val_set is not None
    assert len(held_out.train_set) == len(rows) // 2


def test_people_who_are_held_out_are_trained_on_in_no_form(tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 10))
    generated = write_generated(root, tmp_path / "generated")
    share, seed = 0.5, 1
    data = UnlabeledDataModule(
        str(root), source=str(generated), image_size=(16, 8), num_workers=0, val_share=share, seed=seed
    )
    assert data.val_set is not None and data.source_set is not None
    held_out, labeled = set(data.val_set.rows.identities), set(data.source_set.rows.identities)
    assert len(held_out) == len(labeled) == 4 and not held_out & labeled
    everybody = UnlabeledDataModule(str(root), source=str(generated), image_size=(16, 8), num_workers=0)
    assert everybody.num_identities == 8


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_labels_of_the_target_are_not_trained_on(share: float, tmp_path: Path) -> None:
    root = write_market1501(tmp_path / "market", train_ids=range(2, 10))
    generated = write_generated(root, tmp_path / "generated")
    for source in ([str(root)], [str(generated), str(root)]):
        data = UnlabeledDataModule(str(root), source=[*source], image_size=(16, 8), num_workers=0, val_share=share)
        with pytest.raises(UserError, match=rf"(?s)labels would be trained on.*{8 - round(8 * share)} people of"):
            _ = data.num_identities


def write_generated(root: Path, folder: Path) -> Path:
    """Write the training rows of a dataset as generated ones of the same people."""
    rows = Market1501(root).manifest()
    rows = rows.filter(np.asarray(rows.numpy("split")) == "train")
    made = {"split": ["generated"] * len(rows), "source_pid": rows.numpy("pid"), "seed": list(range(len(rows)))}
    made |= {name: [""] * len(rows) for name in ("prompt", "attributes", "generator")}
    rows.with_columns(made).write(folder)
    return folder


def test_other_people_of_the_same_source_and_number_are_refused(tmp_path: Path) -> None:
    roots = [write_market1501(tmp_path / name, train_ids=range(2, 10)) for name in ("ours", "theirs")]
    given: dict[str, Any] = {"source": str(roots[1]), "image_size": (16, 8), "num_workers": 0}
    with pytest.raises(UserError, match=r"(?s)same source 'market1501'.*--data.source"):
        _ = UnlabeledDataModule(str(roots[0]), val_share=0.5, **given).source_set
    assert UnlabeledDataModule(str(roots[0]), **given).num_identities == 8, "nobody is held out, so nobody is lost"


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    root = put(tmp_path / "crops", ["1.jpg", "2.jpg"])
    assert UnlabeledDataModule(str(root)).true_labels() is None
    with pytest.raises(UserError, match="sample_weight"):
        UnlabeledDataModule(str(root), sample_weight="confidence")
    with pytest.raises(UserError, match="names no source"):
        UnlabeledDataModule([])
    one = write_market1501(tmp_path / "one", train_ids=range(2, 3))
    with pytest.raises(UserError, match="too few identities"):
        _ = UnlabeledDataModule(str(root), source=str(one)).num_identities
