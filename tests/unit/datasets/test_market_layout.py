"""Market-1501, DukeMTMC-reID, CUHK03-NP and MSMT17 in Market form: the formats of three folders."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from diffreid_lightning.datasets import CUHK03NP, Counts, DukeMTMCReID, Market1501, MSMT17Market, PersonDataset, detect
from diffreid_lightning.errors import UserError
from tests.fixtures.dataset_contract import DatasetContract
from tests.fixtures.dataset_layouts import (
    put,
    write_cuhk03np,
    write_dukemtmcreid,
    write_market1501,
    write_msmt17_market,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts")


class TestMarket1501(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(4, 12, 3)}

    def write(self, root: Path) -> Path:
        return write_market1501(root)

    def open(self, root: Path) -> PersonDataset:
        return Market1501(root)

    def test_data_of_ones_own_are_named_and_not_compared(self, root: Path) -> None:
        with pytest.warns(UserWarning, match="Market1501 with source: NAME"):
            Market1501(root).manifest()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            own = Market1501(root, source="shop")
            assert set(own.manifest().numpy("source")) == {"shop"} and own.differences()

    def test_junk_is_dropped_and_counted(self, root: Path) -> None:
        dataset = Market1501(root)
        assert dataset.junk == 2
        assert not any("-1_" in name for name in dataset.manifest().numpy("file_name"))
        assert dataset.manifest().numpy("pid").min() == 0

    def test_person_zero_of_the_gallery_is_a_distractor(self, root: Path) -> None:
        manifest = Market1501(root).manifest()
        distractors = manifest.filter(manifest.numpy("role") == "distractor")
        assert len(distractors) == 3
        assert set(distractors.numpy("pid")) == {0} and set(distractors.numpy("split")) == {"gallery"}
        assert not (manifest.filter(manifest.numpy("role") == "identity").numpy("pid") == 0).any()

    @pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
    def test_person_zero_elsewhere_is_an_error(self, root: Path, folder: str) -> None:
        put(root / folder / "0000_c1s1_000001_00.jpg", 0, 1)
        with pytest.raises(UserError, match=r"(?s)Person 0 occurs in .*PersonFolder"):
            Market1501(root).manifest()

    def test_names_give_person_and_camera(self, root: Path) -> None:
        put(root / "query" / "0042_c9s9_part" / "1501_c12s3_000451_03.jpg", 1, 1)
        put(root / "bounding_box_test" / "1501_c6s3_000451_03.JPG", 1, 1)
        manifest = Market1501(root).manifest()
        rows = {row["file_name"]: row for row in manifest.table.to_pylist()}
        nested = rows["query/0042_c9s9_part/1501_c12s3_000451_03.jpg"]
        assert (nested["pid"], nested["camid"], nested["split"]) == (1501, 12, "query")
        upper = rows["bounding_box_test/1501_c6s3_000451_03.JPG"]
        assert (upper["pid"], upper["camid"], upper["split"]) == (1501, 6, "gallery")

    @pytest.mark.parametrize("suffix", [".png", ".JPEG", ".bmp", ".webp"])
    def test_other_suffixes_are_read(self, root: Path, suffix: str) -> None:
        put(root / "bounding_box_train" / f"0002_c1s1_999999_00{suffix}", 2, 1)
        assert len(Market1501(root).manifest()) == 46

    def test_the_500k_distractors(self, tmp_path: Path) -> None:
        root = write_market1501(tmp_path / "set", distractors_500k=5)
        without, within = Market1501(root), Market1501(root, distractors_500k=True)
        assert len(within.manifest()) == len(without.manifest()) + 5
        added = within.manifest().take(range(len(without.manifest()), len(within.manifest())))
        assert set(added.numpy("role")) == {"distractor"} and set(added.numpy("split")) == {"gallery"}
        assert all(name.startswith("images/") for name in added.numpy("file_name"))
        assert "gallery" in without.published_counts and "gallery" not in within.published_counts
        assert within.description != without.description

    def test_missing_500k_distractors_are_an_error(self, root: Path) -> None:
        with pytest.raises(UserError, match="500k distractors are not in"):
            Market1501(root, distractors_500k=True).manifest()

    def test_names_that_cannot_be_read_are_named(self, root: Path) -> None:
        put(root / "query" / "holiday.jpg", 1, 1)
        put(root / "query" / "0001_c1.jpg", 1, 1)
        with pytest.raises(UserError, match=r"2 image names in .*query cannot be read") as error:
            Market1501(root).manifest()
        assert "query/0001_c1.jpg, query/holiday.jpg" in str(error.value)

    @pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
    def test_a_missing_or_empty_folder_is_an_error(self, root: Path, folder: str) -> None:
        shutil.rmtree(root / folder)
        with pytest.raises(UserError, match="is not a Market1501"):
            Market1501(root).manifest()
        (root / folder).mkdir()
        with pytest.raises(UserError, match=f"{folder} holds no images"):
            Market1501(root).manifest()

    def test_published_counts(self, root: Path) -> None:
        assert sum(counts.images for counts in Market1501(root).published_counts.values()) == 12_936 + 3_368 + 15_913


class TestDukeMTMCReID(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(3, 9, 3)}

    def write(self, root: Path) -> Path:
        return write_dukemtmcreid(root)

    def open(self, root: Path) -> PersonDataset:
        return DukeMTMCReID(root)

    def test_person_zero_is_a_person(self, root: Path) -> None:
        put(root / "bounding_box_test" / "0000_c2_f0000001.jpg", 0, 1)
        manifest = DukeMTMCReID(root).manifest()
        assert set(manifest.numpy("role")) == {"identity"} and 0 in manifest.numpy("pid")


class TestCUHK03NPDetected(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 15, 2), "query": Counts(3, 6, 2), "gallery": Counts(3, 6, 2)}

    def write(self, root: Path) -> Path:
        return write_cuhk03np(root)

    def open(self, root: Path) -> PersonDataset:
        return CUHK03NP(root)

    def test_boxes_are_two_datasets(self, root: Path) -> None:
        labeled, detected = CUHK03NP(root, boxes="labeled"), CUHK03NP(root, boxes="detected")
        assert len(labeled.manifest()) == len(detected.manifest()) + 1
        assert labeled.published_counts["train"].images - detected.published_counts["train"].images == 3
        assert labeled.description != detected.description
        assert all(name.startswith("labeled/") for name in labeled.manifest().numpy("file_name"))

    @pytest.mark.parametrize("boxes", ["labeled", "detected"])
    def test_the_inner_folder_is_detected_by_its_name(self, root: Path, boxes: str) -> None:
        dataset = detect(root / boxes)
        assert isinstance(dataset, CUHK03NP) and dataset.boxes == boxes
        assert dataset.manifest().root == root

    def test_missing_and_misspelt_boxes(self, tmp_path: Path) -> None:
        root = write_cuhk03np(tmp_path / "set", boxes=["labeled"])
        with pytest.raises(UserError, match="no detected boxes"):
            CUHK03NP(root).manifest()
        with pytest.raises(UserError, match="no boxes 'labeld'"):
            CUHK03NP(root, boxes="labeld")  # type: ignore[arg-type]


class TestCUHK03NPLabeled(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 16, 2), "query": Counts(3, 6, 2), "gallery": Counts(3, 6, 2)}
    detected = False

    def write(self, root: Path) -> Path:
        return write_cuhk03np(root)

    def open(self, root: Path) -> PersonDataset:
        return CUHK03NP(root, boxes="labeled")


class TestMSMT17Market(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(3, 9, 3)}

    def write(self, root: Path) -> Path:
        return write_msmt17_market(root)

    def open(self, root: Path) -> PersonDataset:
        return MSMT17Market(root)

    def test_cameras_of_two_digits_are_not_cut(self, root: Path) -> None:
        assert set(MSMT17Market(root).manifest().numpy("camid")) == {1, 4, 12}

    def test_person_zero_is_a_person_in_train_and_another_in_test(self, root: Path) -> None:
        manifest = MSMT17Market(root).manifest()
        _, keys = manifest.identities()
        assert {("msmt17", "train", 0), ("msmt17", "test", 0)} <= set(keys)
        assert set(manifest.numpy("role")) == {"identity"}


WRITERS = {
    Market1501: write_market1501,
    DukeMTMCReID: write_dukemtmcreid,
    MSMT17Market: write_msmt17_market,
}


@pytest.mark.parametrize("opened", WRITERS)
@pytest.mark.parametrize("written", WRITERS)
def test_a_dataset_opened_as_another_is_told_which_it_is(
    tmp_path: Path, opened: type[PersonDataset], written: type[PersonDataset]
) -> None:
    root = WRITERS[written](tmp_path / "set")
    if opened is written:
        opened(root).manifest()
        return
    with pytest.raises(UserError, match=f"this looks like {written.__name__}; use {written.__name__}"):
        opened(root).manifest()
