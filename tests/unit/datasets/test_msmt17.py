from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from diffreid_lightning.datasets import MSMT17, Counts, Market1501, PersonDataset
from diffreid_lightning.errors import UserError
from tests.fixtures.dataset_contract import DatasetContract
from tests.fixtures.dataset_layouts import put, write_market1501, write_msmt17

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts")
COUNTS = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(3, 9, 3)}


class TestV1(DatasetContract):
    counts: ClassVar = COUNTS

    def write(self, root: Path) -> Path:
        return write_msmt17(root)

    def open(self, root: Path) -> PersonDataset:
        return MSMT17(root)

    def test_version_is_told_by_the_folders(self, root: Path) -> None:
        assert MSMT17(root).version == "V1"


class TestV2(DatasetContract):
    counts: ClassVar = COUNTS

    def write(self, root: Path) -> Path:
        return write_msmt17(root, version=2)

    def open(self, root: Path) -> PersonDataset:
        return MSMT17(root)

    def test_version_is_told_by_the_folders(self, root: Path) -> None:
        assert MSMT17(root).version == "V2"
        assert all(name.startswith("mask_") for name in MSMT17(root).manifest().numpy("file_name"))

    def test_folders_in_another_case(self, root: Path) -> None:
        (root / "mask_test_v2").rename(root / "mask_test_V2")
        manifest = MSMT17(root).manifest()
        assert manifest.images.image(manifest.numpy("file_name")[-1]).mode == "RGB"


class TestWithoutTheValList(DatasetContract):
    counts: ClassVar = COUNTS | {"train": Counts(4, 20, 3)}
    detected = False

    def write(self, root: Path) -> Path:
        return write_msmt17(root)

    def open(self, root: Path) -> PersonDataset:
        return MSMT17(root, train_with_val_list=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_msmt17(tmp_path / "msmt17")


def test_the_val_list_is_more_images_of_train_people_and_never_a_val_split(root: Path) -> None:
    with_list, without = MSMT17(root), MSMT17(root, train_with_val_list=False)
    manifests = with_list.manifest(), without.manifest()
    train_people = [set(manifest.numpy("pid")[manifest.numpy("split") == "train"]) for manifest in manifests]
    assert len(manifests[0]) == len(manifests[1]) + 4 and train_people[0] == train_people[1]
    assert "val" not in set(manifests[0].numpy("split"))
    assert with_list.published_counts["train"].images == 32_621 and without.published_counts["train"].images == 30_248
    assert with_list.description == "MSMT17 V1, train = list_train + list_val"
    assert without.description == "MSMT17 V1, train = list_train only"


def test_the_camera_is_the_third_field(root: Path) -> None:
    manifest = MSMT17(root).manifest()
    expected = [int(Path(name).name.split("_")[2]) for name in manifest.numpy("file_name")]
    assert manifest.numpy("camid").tolist() == expected and set(expected) == {1, 4, 12}


def test_people_of_train_and_test_are_both_numbered_from_zero_and_are_not_the_same(root: Path) -> None:
    manifest = MSMT17(root).manifest()
    labels, keys = manifest.identities()
    assert keys == sorted([*(("msmt17", "train", pid) for pid in range(4)), *(("msmt17", "test", p) for p in range(3))])
    assert len(np.unique(labels)) == 7 and set(manifest.numpy("role")) == {"identity"}
    assert MSMT17.pids_restart


def test_listed_images_that_are_missing_are_named(root: Path) -> None:
    gone = root / "test" / "0001" / "0001_000_01_0303morning_0000_0.jpg"
    gone.unlink()
    with pytest.raises(UserError, match=r"1 images of .*list_query\.txt do not exist") as error:
        MSMT17(root).manifest()
    assert "test/0001/0001_000_01_0303morning_0000_0.jpg" in str(error.value)


def test_images_in_no_list_are_no_part_of_the_dataset(root: Path) -> None:
    before = MSMT17(root).manifest().content_hash
    put(root / "train" / "0000" / "0000_999_01_0303morning_0000_0.jpg", 1, 1)
    assert MSMT17(root).manifest().content_hash == before


@pytest.mark.parametrize("name", ["list_val.txt", "list_query.txt", "list_gallery.txt"])
def test_missing_lists_are_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(UserError, match=f"lacks lists: {name}"):
        MSMT17(root).manifest()


@pytest.mark.parametrize("line", ["0000/0000_000_01_0303morning_0008_0.jpg", "0000/x.jpg 0", "0000/a_b_c_d.jpg 0"])
def test_lines_that_cannot_be_read_are_named(root: Path, line: str) -> None:
    with (root / "list_train.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=r"1 image names in .*list_train\.txt cannot be read") as error:
        MSMT17(root).manifest()
    assert line in str(error.value)


def test_a_list_cannot_name_files_outside(root: Path) -> None:
    with (root / "list_train.txt").open("a") as file:
        file.write("../../../0000_000_01_x.jpg 0\n")
    with pytest.raises(UserError, match="do not exist"):
        MSMT17(root).manifest()


def test_lists_by_windows_editors(root: Path) -> None:
    before = MSMT17(root).manifest().content_hash
    text = (root / "list_train.txt").read_text()
    (root / "list_train.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    assert MSMT17(root).manifest().content_hash == before


def test_opened_as_market_and_market_opened_as_msmt17(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this looks like MSMT17; use MSMT17"):
        Market1501(root).manifest()
    with pytest.raises(UserError, match="this looks like Market1501; use Market1501"):
        MSMT17(write_market1501(tmp_path / "market")).manifest()
