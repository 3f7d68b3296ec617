from __future__ import annotations

import os
import shlex
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from diffreid_lightning.datasets import (
    FORMATS,
    Counts,
    ManifestDataset,
    Market1501,
    PersonDataset,
    detect,
    open_dataset,
    open_unlabeled,
)
from diffreid_lightning.errors import UserError
from tests.fixtures.dataset_contract import DatasetContract
from tests.fixtures.dataset_layouts import put, write_market1501, write_msmt17, write_person_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts")


class TestManifestDataset(DatasetContract):
    counts: ClassVar = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(4, 12, 3)}

    def write(self, root: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Market1501(write_market1501(root)).manifest().write(root)
        return root

    def open(self, root: Path) -> PersonDataset:
        return ManifestDataset(root)

    def test_source_and_partition(self, root: Path) -> None:
        manifest = ManifestDataset(root).manifest()
        assert set(manifest.numpy("source")) == {"market1501"}
        assert manifest.content_hash == Market1501(root).manifest().content_hash

    def test_the_file_itself_is_a_dataset(self, root: Path) -> None:
        assert len(detect(root / "metadata.parquet").manifest()) == 45


def test_a_folder_of_no_known_layout_lists_the_known_ones(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a.jpg", 1, 1)
    (tmp_path / "set" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="No dataset is recognized") as error:
        detect(tmp_path / "set")
    text = str(error.value)
    assert all(known.__name__ in text and known.layout in text for known in FORMATS) and "a.jpg" in text
    advised = shlex.split(str(error.value.remedy).rpartition("python -m diffreid_lightning ")[2])
    assert advised[:-1] == ["fit", "--config", "recipes/adapt", "--data.target"]
    assert len(open_unlabeled(advised[-1]).manifest()) == 1


def test_a_folder_beside_it_that_cannot_be_listed_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "anna" / "a.jpg", 1, 1)
    (tmp_path / "carla").mkdir()
    listed = os.scandir

    def scandir(path: str | Path) -> object:
        if "carla" in str(path):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="No dataset is recognized"):
        detect(tmp_path / "anna")


@pytest.mark.parametrize("missing", ["bounding_box_train", "query", "bounding_box_test"])
def test_an_incomplete_copy_does_not_pass_for_a_folder_of_people(tmp_path: Path, missing: str) -> None:
    root = write_market1501(tmp_path / "set")
    (root / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="No dataset is recognized"):
        detect(root)


def test_msmt17_without_lists_does_not_pass_for_a_folder_of_people(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "set")
    for file in root.glob("*.txt"):
        file.unlink()
    with pytest.raises(UserError, match="No dataset is recognized"):
        detect(root)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing at"):
        detect(tmp_path / "nowhere")


def test_a_folder_that_lacks_one_of_markets_three_is_told_which(tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "bounding_box_test"):
        put(tmp_path / folder / "0001_c1s1_000001_00.jpg", 1, 1)
    with pytest.raises(UserError, match="put query beside the others"):
        detect(tmp_path)


def test_open_dataset_takes_paths_and_datasets(tmp_path: Path) -> None:
    root = write_person_folder(tmp_path / "set")
    dataset = open_dataset(str(root))
    assert open_dataset(dataset) is dataset and type(open_dataset(root)) is type(dataset)


def test_the_embedded_dataset_misspelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean miniperson"):
        open_dataset("minipersn")
    write_person_folder(tmp_path / "minipersn")
    assert open_dataset("minipersn").root == detect(tmp_path / "minipersn").root


def test_a_domain_that_miniperson_has_not() -> None:
    with pytest.raises(UserError, match="did you mean miniperson:campus"):
        open_dataset("miniperson:campos")
    with pytest.raises(UserError, match="no domain ''"):
        open_dataset("miniperson:")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"no manifest.*rows\.parquet"):
        detect(tmp_path / "rows.parquet").manifest()
