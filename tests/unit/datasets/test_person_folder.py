from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from diffreid_lightning.datasets import Counts, PersonDataset, PersonFolder, open_dataset
from diffreid_lightning.datasets.inspect import check
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_contract import DatasetContract
from tests.fixtures.dataset_layouts import put, write_market1501, write_person_folder

CAMERA = r"cam(?P<camera>\d+)_"


class TestTrainOnly(DatasetContract):
    counts: ClassVar = {"train": Counts(3, 18, 18)}

    def write(self, root: Path) -> Path:
        return write_person_folder(root, camera_in="none")

    def open(self, root: Path) -> PersonDataset:
        return PersonFolder(root)


class TestSplitsWithCamerasInNames(DatasetContract):
    counts: ClassVar = {"train": Counts(3, 18, 3), "query": Counts(2, 6, 3), "gallery": Counts(2, 6, 3)}
    detected = False

    def write(self, root: Path) -> Path:
        return write_person_folder(root, test_people=["0003", "0004"])

    def open(self, root: Path) -> PersonDataset:
        return PersonFolder(root, pattern=CAMERA)


class TestSplitsWithoutCameras(DatasetContract):
    counts: ClassVar = {"train": Counts(3, 18, 18), "query": Counts(2, 6, 6), "gallery": Counts(2, 6, 6)}

    def write(self, root: Path) -> Path:
        return write_person_folder(root, test_people=["0003", "0004"], camera_in="none")

    def open(self, root: Path) -> PersonDataset:
        return PersonFolder(root)


def rows(manifest: Manifest) -> dict[str, dict[str, object]]:
    return {row["file_name"]: row for row in manifest.table.to_pylist()}


def test_numbers_as_folder_names_stay_the_pid(tmp_path: Path) -> None:
    manifest = PersonFolder(write_person_folder(tmp_path / "set", people=["0002", "0010", "7"])).manifest()
    assert sorted(set(manifest.numpy("pid"))) == [2, 7, 10] and "name" not in manifest.columns


@pytest.mark.parametrize("people", [["bob", "alice", "7"], ["1", "01", "2"], ["12345678901234567890", "1", "2"]])
def test_other_folder_names_are_numbered_in_sorted_order_and_kept(tmp_path: Path, people: list[str]) -> None:
    manifest = PersonFolder(write_person_folder(tmp_path / "set", people=people)).manifest()
    assert dict(zip(manifest.numpy("name"), manifest.numpy("pid"), strict=True)) == {
        name: number for number, name in enumerate(sorted(people))
    }
    assert Manifest.read(manifest.write(tmp_path / "out")).numpy("name").tolist() == manifest.numpy("name").tolist()


def test_one_numbering_serves_all_splits(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set", people=["ann", "eve"], test_people=["bob", "eve"])
    manifest = PersonFolder(root, pattern=CAMERA).manifest()
    numbers = dict(zip(manifest.numpy("name"), manifest.numpy("pid").tolist(), strict=True))
    assert numbers == {"ann": 0, "bob": 1, "eve": 2}
    assert {key[1:] for key in manifest.identities()[1]} == {("train", 0), ("train", 2), ("test", 1), ("test", 2)}


def test_cameras_from_names_and_from_folders_agree(tmp_path: Path) -> None:
    by_name = PersonFolder(write_person_folder(tmp_path / "a", cameras=(3, 12, 1)), pattern=CAMERA).manifest()
    folders = write_person_folder(tmp_path / "b", cameras=(3, 12, 1), camera_in="folder")
    by_folder = PersonFolder(folders, camera_folders=True).manifest()
    assert set(by_name.numpy("camid")) == {1, 3, 12}
    assert dict(zip(by_folder.numpy("camera"), by_folder.numpy("camid"), strict=True)) == {
        "cam1": 0,
        "cam12": 1,
        "cam3": 2,
    }
    for pid in (1, 2, 5):
        assert (by_name.numpy("pid") == pid).sum() == (by_folder.numpy("pid") == pid).sum() == 6


def test_without_cameras_nothing_is_removed_but_a_query_itself(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set", test_people=["5", "6"], camera_in="none")
    for person in ("5", "6"):  # each query is in the gallery, too, as when a gallery is the whole test set
        for file in (root / "query" / person).iterdir():
            (root / "gallery" / person / file.name).write_bytes(file.read_bytes())
    manifest = PersonFolder(root).manifest()
    by_name = rows(manifest)
    for query, entry in itertools.product(
        *([name for name in by_name if name.startswith(split)] for split in ("query", "gallery"))
    ):
        same_person = by_name[query]["pid"] == by_name[entry]["pid"]
        removed = same_person and by_name[query]["camid"] == by_name[entry]["camid"]
        assert removed == (query.removeprefix("query") == entry.removeprefix("gallery"))
    train = manifest.filter(manifest.numpy("split") == "train")
    assert len(np.unique(train.numpy("camid"))) == len(train)


def test_without_cameras_images_of_one_name_are_different_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person, split, number in itertools.product(("alice", "bob"), ("query", "gallery"), range(2)):
        put(tmp_path / "set" / split / person / f"{number}.jpg", int(person == "bob"), int(split == "query"), number)
    report = check(tmp_path / "set")
    assert report.cameras_unknown and report.unmatched_queries == 0
    shutil.copyfile(tmp_path / "set/query/bob/0.jpg", tmp_path / "set/gallery/bob/0.jpg")
    report = check(tmp_path / "set")
    assert report.cameras_unknown and report.unmatched_queries == 0
    cameras = rows(open_dataset(tmp_path / "set").manifest())
    assert cameras["query/bob/0.jpg"]["camid"] == cameras["gallery/bob/0.jpg"]["camid"]
    assert len({row["camid"] for row in cameras.values()}) == 7
    (tmp_path / "set/gallery/bob/1.jpg").unlink()
    assert check(tmp_path / "set").unmatched_queries == 1
    with (tmp_path / "set/gallery/bob/0.jpg").open("ab") as file:
        file.write(b"another size")
    read: list[str] = []
    monkeypatch.setattr(ImageRoot, "read", lambda self, name: read.append(name) or b"")
    assert check(tmp_path / "set").cameras_unknown
    assert not {"query/bob/0.jpg", "gallery/bob/0.jpg"} & set(read), "their sizes tell them apart"


def test_flat_folders_with_person_and_camera_in_the_name(tmp_path: Path) -> None:
    for name in ("train/0_c1.jpg", "train/0_c12.jpg", "query/3_c1.png", "gallery/deep/er/3_c2.png"):
        put(tmp_path / "set" / name, 1, 1)
    manifest = PersonFolder(tmp_path / "set", pattern=r"^(?P<pid>\d+)_c(?P<camera>\d+)").manifest()
    found = {name: (row["pid"], row["camid"], row["split"]) for name, row in rows(manifest).items()}
    assert found == {
        "train/0_c1.jpg": (0, 1, "train"),
        "train/0_c12.jpg": (0, 12, "train"),
        "query/3_c1.png": (3, 1, "query"),
        "gallery/deep/er/3_c2.png": (3, 2, "gallery"),
    }


@pytest.mark.parametrize("train", ["a/", "./a", "./a/", "a\\", "lists/a.txt", "./lists/a.txt"])
def test_a_split_is_named_as_shells_complete_it(tmp_path: Path, train: str) -> None:
    for number in range(2):
        put(tmp_path / "a" / f"{number}_c1.jpg", number, 1)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("0_c1.jpg\n1_c1.jpg\n")
    manifest = PersonFolder(tmp_path, pattern=r"^(?P<pid>\d+)_c(?P<camera>\d+)", train=train).manifest()
    assert set(rows(manifest)) == {"a/0_c1.jpg", "a/1_c1.jpg"}


def test_the_pattern_sees_the_file_name_only(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "cam99_set", people=["cam77_0"])
    assert set(PersonFolder(root, pattern=CAMERA).manifest().numpy("camid")) == {1, 2, 6}


def test_a_val_folder_is_held_out_people_of_train(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set", test_people=["8", "9"])
    put(root / "val" / "3" / "cam1_0.jpg", 3, 1)
    manifest = PersonFolder(root, pattern=CAMERA).manifest()
    row = rows(manifest)["val/3/cam1_0.jpg"]
    assert (row["split"], row["partition"]) == ("val", "train")


def test_a_source_of_ones_own(tmp_path: Path) -> None:
    manifest = PersonFolder(write_person_folder(tmp_path / "set"), source="lobby").manifest()
    assert set(manifest.numpy("source")) == {"lobby"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["query/1/a.jpg"], "require each other"),
        (["train/1/a.jpg", "gallery/1/a.jpg"], "require each other"),
        (["train/1/a.jpg", "test/1/a.jpg"], "in no split"),
        (["train/1/a.jpg", "b.jpg"], "in no split"),
        (["a.jpg", "1/b.jpg"], "cannot be read"),
        (["1/cam1/a.jpg", "2/b.jpg"], "camera_folders=True"),
        (["bounding_box_train/1.jpg", "query/1.jpg"], "in no split"),
        (["bounding_box_train/1.jpg", "bounding_box_test/1.jpg"], "is not a PersonFolder"),
    ],
)
def test_folders_that_are_not_people_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        put(tmp_path / "set" / name, 1, 1)
    with pytest.raises(UserError) as error:
        PersonFolder(tmp_path / "set").manifest()
    assert message in str(error.value)


SCENES = {
    "places": ["lobby", "gate", "hall"],
    "videos": [f"video_{number}" for number in range(5)],
    "dates": ["2021-01-01", "2021-01-02"],
    "sexes": ["male", "female"],
    "roles": ["database", "reference"],
    "bodies": ["whole_body_images", "partial_body_images", "occluded_body_images"],
}


@pytest.mark.parametrize("kind", SCENES)
def test_folders_of_scenes_are_no_people_and_both_readings_are_offered(tmp_path: Path, kind: str) -> None:
    people, images = (3, 2) if kind in ("places", "bodies") else (4, 1)
    for folder in SCENES[kind]:
        for person, image in itertools.product(range(people), range(images)):
            put(tmp_path / folder / f"{person:03d}_{image}.jpg", person, 1)
    with pytest.raises(UserError) as error:
        open_dataset(tmp_path).manifest()
    assert f"train: {people} ids" in str(error.value.remedy)
    with pytest.raises(UserError, match="its folders are not people") as error:
        PersonFolder(tmp_path).manifest()
    assert f"train: {people} ids" in str(error.value.remedy)
    assert r"if these are people, give pattern: '(?P<pid>[^/]+)/[^/]+$'" in str(error.value.remedy)
    said = PersonFolder(tmp_path, pattern=r"(?P<pid>[^/]+)/[^/]+$").manifest()
    assert len(said.identities()[1]) == len(SCENES[kind])


@pytest.mark.parametrize(
    ("people", "form", "notes"),
    [
        (["anna", "bob", "carl"], "{frame:04d}_c1.jpg", 2),  # or three people in three places: a note says so
        (["0001", "0002", "0003"], "{frame}_0.jpg", 1),
        (["0001", "0002", "0003"], "{frame:04d}.jpg", 0),
        (["1", "2", "3"], "{person}_{frame}.jpg", 0),
        (["anna", "bob", "carl"], "20210101_{frame:06d}.jpg", 0),
    ],
)
def test_numbers_of_frames_in_folders_of_people_pass(tmp_path: Path, people: list[str], form: str, notes: int) -> None:
    for person, frame in itertools.product(people, range(3)):
        put(tmp_path / person / form.format(person=person, frame=frame), 1, frame)
    dataset = open_dataset(tmp_path)
    assert len(dataset.manifest().identities()[1]) == 3
    assert len(dataset.notes) == notes and sum("in several folders" in note for note in dataset.notes) == bool(notes)


def test_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        PersonFolder(write_market1501(tmp_path / "set")).manifest()
    assert "in no split" in str(error.value) or "Market1501" in str(error.value)


def test_names_the_pattern_does_not_match_are_named(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set")
    put(root / "0001" / "portrait.jpg", 1, 1)
    with pytest.raises(UserError, match=r"(?s)1 image names.*0001/portrait\.jpg"):
        PersonFolder(root, pattern=CAMERA).manifest()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": r"c(\d+)"}, "no group for person or camera"),
        ({"pattern": CAMERA, "camera_folders": True}, "not both"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PersonFolder(tmp_path, **options)  # type: ignore[arg-type]
