"""List files of large datasets."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from diffreid_lightning.datasets import PersonFolder
from diffreid_lightning.datasets.split_entries import Placed, place
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot
from tests.fixtures.dataset_layouts import put


def test_a_list_takes_memory_for_its_own_lines_only(tmp_path: Path) -> None:
    names = [f"images/train/{number // 100}/{number}.jpg" for number in range(20_000)]
    (tmp_path / "list.txt").write_text("7.jpg 3\n0/8\n./images/train/0/9.jpg, 4 5\n")
    tracemalloc.start()
    placed = place(ImageRoot(tmp_path), names, {"train": ["list.txt"]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert placed == [Placed(names[row], "train", "", rest, True) for row, rest in ((7, "3"), (8, ""), (9, "4 5"))]
    assert peak < 1 << 20


@pytest.mark.parametrize("glob", ["person[5-1]*", "*/[!]"])
def test_a_glob_with_a_wrong_range_is_a_users_mistake(tmp_path: Path, glob: str) -> None:
    put(tmp_path / "person1" / "1.jpg", 1, 1)
    with pytest.raises(UserError, match="is not a glob"):
        PersonFolder(tmp_path, train=glob).manifest()


@pytest.mark.parametrize("depth", ["", "cam1/"])
@pytest.mark.parametrize("entries", ["globs", "lists", "folder"])
def test_the_person_is_the_folder_above_the_image_however_a_split_is_given(
    tmp_path: Path, depth: str, entries: str
) -> None:
    names = [f"images/{person}/{depth}{number}.jpg" for person in ("01", "02", "11") for number in range(2)]
    for row, name in enumerate(names):
        put(tmp_path / name, row, 1)
    (tmp_path / "train.txt").write_text("\n".join(names[:4]))
    (tmp_path / "val.txt").write_text("\n".join(names[4:]))
    splits = {
        "globs": {"train": ["images/0*"], "val": ["images/1*"]},
        "lists": {"train": ["train.txt"], "val": ["val.txt"]},
        "folder": {"train": ["images"]},
    }[entries]
    manifest = PersonFolder(tmp_path, camera_folders=bool(depth), **splits).manifest()  # type: ignore[arg-type]
    found = dict(zip(manifest.numpy("file_name"), manifest.numpy("pid"), strict=True))
    assert {pid: [name for name in names if found[name] == pid] for pid in (1, 2, 11)} == {
        1: names[:2], 2: names[2:4], 11: names[4:]
    }  # fmt: skip


@pytest.mark.parametrize("train", ["mine", "*_train"])
def test_a_folder_of_images_is_a_split_and_no_person(tmp_path: Path, train: str) -> None:
    put(tmp_path / train.replace("*", "image") / "1.jpg", 1, 1)
    with pytest.raises(UserError, match="cannot be read"):
        PersonFolder(tmp_path, train=train).manifest()
