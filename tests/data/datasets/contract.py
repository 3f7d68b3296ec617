"""What every on-disk format owes its users; each format's test class inherits these tests."""

from __future__ import annotations

import pickle
import random
import shutil
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from diffreid_lightning.data.datasets import Counts, PersonDataset, count_splits, detect
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest import Manifest
from tests.data.layouts import zip_folder


class DatasetContract:
    """Inherit and say how a tiny dataset of the format is written and opened, and what is in it."""

    counts: ClassVar[dict[str, Counts]]
    """What the written dataset holds."""
    detected = True
    """Whether ``detect`` opens the written dataset with the options that ``open`` uses."""

    def write(self, root: Path) -> Path:
        raise NotImplementedError

    def open(self, root: Path) -> PersonDataset:
        raise NotImplementedError

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        # Numbers in a parent folder's name must not be taken for a person's or a camera's.
        return self.write(tmp_path / "0042_c7s1_f0001_c33" / "set")

    def read(self, root: Path) -> Manifest:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.open(root).manifest()

    def test_counts(self, root: Path) -> None:
        assert count_splits(self.read(root)) == self.counts

    def test_every_image_opens(self, root: Path) -> None:
        manifest = self.read(root)
        for name in manifest.numpy("file_name"):
            assert manifest.images.image(name).mode == "RGB"

    def test_source_and_partition(self, root: Path) -> None:
        manifest = self.read(root)
        assert set(manifest.numpy("source")) == {self.open(root).source}
        held_out = np.isin(manifest.numpy("split"), ["query", "gallery"])
        assert np.array_equal(manifest.numpy("partition") == "test", held_out)

    def test_train_and_test_share_no_identity(self, root: Path) -> None:
        manifest = self.read(root)
        labels, _ = manifest.identities()
        train = manifest.numpy("split") == "train"
        assert not set(labels[train]) & set(labels[~train])

    def test_every_query_has_a_match_in_another_camera(self, root: Path) -> None:
        manifest = self.read(root)
        labels, _ = manifest.identities()
        split, cameras = manifest.numpy("split"), manifest.numpy("camid")
        gallery = set(zip(labels[split == "gallery"], cameras[split == "gallery"], strict=True))
        for label, camera in zip(labels[split == "query"], cameras[split == "query"], strict=True):
            assert any(label == one and camera != other for one, other in gallery)

    def test_the_order_of_files_on_the_disk_does_not_matter(self, root: Path, tmp_path: Path) -> None:
        files = sorted(file for file in root.rglob("*") if file.is_file())
        random.Random(0).shuffle(files)
        for file in files:
            target = tmp_path / "copy" / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        assert self.read(tmp_path / "copy").content_hash == self.read(root).content_hash

    @pytest.mark.parametrize("inside", ["", "one", "one/two/three"])
    def test_an_archive_holds_the_same_dataset(self, root: Path, tmp_path: Path, inside: str) -> None:
        archive = zip_folder(root, tmp_path / "set.zip", inside)
        manifest = self.read(archive)
        assert manifest.content_hash == self.read(root).content_hash
        name = manifest.numpy("file_name")[0]
        assert manifest.images.read(name) == (root / name).read_bytes()

    def test_enclosing_folders_are_entered(self, root: Path, tmp_path: Path) -> None:
        outer = tmp_path / "outer" / "middle"
        outer.mkdir(parents=True)
        shutil.move(root, outer / "set")
        (tmp_path / "outer" / "__MACOSX").mkdir()
        assert self.read(tmp_path / "outer").root == outer / "set"

    def test_clutter_is_ignored(self, root: Path) -> None:
        before = self.read(root).content_hash
        for folder in [root, *(folder for folder in root.rglob("*") if folder.is_dir())]:
            for name in ("Thumbs.db", ".DS_Store", "._0001_c1s1_000001_00.jpg", "readme.txt"):
                (folder / name).write_bytes(b"clutter")
        assert self.read(root).content_hash == before

    def test_it_is_detected(self, root: Path) -> None:
        found, opened = detect(root), self.open(root)
        assert type(found) is type(opened) and found.source == opened.source
        if self.detected:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert found.manifest().content_hash == opened.manifest().content_hash
                assert found.description == opened.description

    def test_the_manifest_is_read_once_and_the_dataset_can_be_pickled(self, root: Path) -> None:
        dataset = self.open(root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manifest = dataset.manifest()
        assert dataset.manifest() is manifest
        assert pickle.loads(pickle.dumps(dataset)).manifest().content_hash == manifest.content_hash
        assert dataset.description

    def test_a_missing_or_empty_root_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nothing at"):
            self.open(tmp_path / "nowhere").manifest()
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError) as error:
            self.open(tmp_path / "empty").manifest()
        assert str(tmp_path / "empty") in str(error.value)

    def test_other_counts_than_the_published_ones(self, root: Path) -> None:
        dataset = self.open(root)
        if not dataset.published:
            assert dataset.differences() == {}
            return
        with pytest.warns(UserWarning, match="published"):
            dataset.manifest()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset.manifest()  # said once
        assert set(dataset.differences()) == set(dataset.published)
        dataset = self.open(root)
        dataset.strict = True
        with pytest.raises(UserError, match="published"):
            dataset.manifest()

    def test_no_word_when_the_counts_are_the_published_ones(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = self.open(root)
        monkeypatch.setattr(type(dataset), "published", self.counts)
        dataset.strict = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset.manifest()
