"""A dataset in Market-1501's layout: who is who, and what it reads back as."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import Market1501, PersonDataset, market_export, open_dataset
from diffreid_lightning.datasets.concat import concatenate
from diffreid_lightning.datasets.market_export import export_market1501
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import put, write_dukemtmcreid, write_market1501, write_msmt17_market, zip_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts")


def rows_by_content(manifest: Manifest) -> set[tuple[bytes, str, int, int, str]]:
    """What each image is, told by its bytes."""
    columns = [manifest.numpy(name).tolist() for name in ("file_name", "split", "pid", "camid", "role")]
    return {(manifest.images.read(name), *rest) for name, *rest in zip(*columns, strict=True)}  # type: ignore[misc]


def two_sources(tmp_path: Path) -> Manifest:
    """Market's and Duke's people under one root: their numbers clash."""
    write_market1501(tmp_path / "both" / "market", distractors=0, junk=0)
    for file in write_dukemtmcreid(tmp_path / "both" / "duke").rglob("*.jpg"):
        file.write_bytes(file.read_bytes() + b"\0")  # other images than Market's of the same number
    parts = []
    for name in ("market", "duke"):
        read = open_dataset(tmp_path / "both" / name).manifest()
        names = [f"{name}/{file}" for file in read.numpy("file_name")]
        moved = Manifest(read.with_columns({"file_name": names}).table, tmp_path / "both")
        parts.append(moved)
    return Manifest(pa.concat_tables([part.table for part in parts], promote_options="default"), tmp_path / "both")


def test_a_market_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    read = Market1501(write_market1501(tmp_path / "market")).manifest()
    found = export_market1501(read, tmp_path / "out")
    assert not found.renumbered and found.images == found.linked == len(read)
    assert rows_by_content(Market1501(tmp_path / "out").manifest()) == rows_by_content(read)
    name = sorted(path for path in (tmp_path / "out" / "query").iterdir())[0]
    assert name.stat().st_nlink == 2


def test_cameras_without_a_number_get_one(tmp_path: Path) -> None:
    read = Market1501(write_market1501(tmp_path / "market")).manifest()
    cameras = np.where(read.numpy("camid") == read.numpy("camid").min(), -1, read.numpy("camid"))
    export_market1501(Manifest(read.with_columns({"camid": cameras}).table, read.root), tmp_path / "out")
    back = Market1501(tmp_path / "out").manifest()
    assert len(back) == len(read) and len(set(back.numpy("camid"))) == len(set(cameras.tolist()))


def test_images_of_other_suffixes_are_read_again(tmp_path: Path) -> None:
    for index, name in enumerate(("a.jfif", "b", "c.png")):
        put(tmp_path / "set" / f"{name}.png", 1, index)
        (tmp_path / "set" / f"{name}.png").rename(tmp_path / "set" / name)
    rows = {"file_name": ["a.jfif", "b", "c.png"], "source": "s", "partition": "train", "pid": 1, "camid": [1, 2, 3]}
    manifest = Manifest.from_columns(tmp_path / "set", {**rows, "split": "train", "role": "identity"})
    assert export_market1501(manifest, tmp_path / "out").suffixes == (".jpg", ".png")
    assert rows_by_content(Market1501(tmp_path / "out").manifest()) == rows_by_content(manifest)


def test_people_of_several_sources_get_numbers_of_their_own(tmp_path: Path) -> None:
    read = two_sources(tmp_path)
    assert export_market1501(read, tmp_path / "out").renumbered
    back = Market1501(tmp_path / "out").manifest()
    assert len(back) == len(read)
    before, after = read.identities(), back.identities()
    with (tmp_path / "out" / "identities.csv").open() as file:
        listed = {
            int(row["number"]): (row["source"], row["partition"], int(row["pid"])) for row in csv.DictReader(file)
        }
    assert sorted(listed) == list(range(1, len(before[1]) + 1)) and set(listed.values()) == set(before[1])
    whose = dict(zip(map(read.images.read, read.numpy("file_name")), before[0], strict=True))
    for name, label in zip(back.numpy("file_name"), after[0], strict=True):
        assert listed[after[1][label][2]] == before[1][whose[back.images.read(name)]]
    cameras = {pid: set(back.numpy("camid")[back.numpy("pid") == pid]) for pid in listed}
    market = set().union(*(cameras[number] for number, key in listed.items() if key[0] == "market1501"))
    duke = set().union(*(cameras[number] for number, key in listed.items() if key[0] != "market1501"))
    assert not market & duke


def test_numbers_that_train_and_test_share_are_told_apart(tmp_path: Path) -> None:
    read = open_dataset(write_msmt17_market(tmp_path / "msmt17")).manifest()
    assert export_market1501(read, tmp_path / "out").renumbered
    back = Market1501(tmp_path / "out").manifest()
    assert len(back.identities()[1]) == len(read.identities()[1]) == 7
    assert concatenate([back]).labels.max() == 6 and (back.numpy("role") == "identity").all()


def test_generated_people_alone_open_without_query_and_gallery(tmp_path: Path) -> None:
    read = Market1501(write_market1501(tmp_path / "market")).manifest()
    train = read.filter(read.numpy("split") == "train")
    made = train.with_columns(
        {
            "split": ["generated"] * len(train),
            "source_pid": train.numpy("pid"),
            "prompt": "",
            "attributes": "{}",
            "seed": 1,
            "generator": "x",
            "camid": [7] * len(train),
        }
    )
    found = export_market1501(made, tmp_path / "out")
    assert found.images == len(train)
    dataset: PersonDataset = open_dataset(tmp_path / "out")
    assert isinstance(dataset, Market1501)
    back = dataset.manifest()
    assert set(back.numpy("split")) == {"train"} and set(back.numpy("camid")) == {7}
    assert sorted(back.numpy("pid")) == sorted(train.numpy("pid"))


def test_an_archive_is_unpacked_and_val_distractors_are_counted(tmp_path: Path) -> None:
    archive = zip_folder(write_market1501(tmp_path / "market"), tmp_path / "market.zip", "inside")
    read = Market1501(archive).manifest()
    split = np.where(read.numpy("role") == "distractor", "val", read.numpy("split"))
    found = export_market1501(read.with_columns({"split": split.tolist()}), tmp_path / "out")
    assert found.linked == 0 and found.left_out == 3 and found.images == len(read) - 3
    assert rows_by_content(Market1501(tmp_path / "out").manifest()) <= rows_by_content(read)


def test_copies_are_made_where_links_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(market_export.os, "link", refuse)
    read = Market1501(write_market1501(tmp_path / "market")).manifest()
    assert export_market1501(read, tmp_path / "out").linked == 0
    assert rows_by_content(Market1501(tmp_path / "out").manifest()) == rows_by_content(read)


def test_a_missing_image_or_a_full_disk_leaves_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_market1501(tmp_path / "market")
    read = Market1501(root).manifest()
    export_market1501(read, tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))
    (root / read.numpy("file_name")[-1]).unlink()
    with pytest.raises(UserError, match="is missing"):
        export_market1501(read, tmp_path / "out")

    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(market_export, "place_image", full)
    with pytest.raises(RunError, match="cannot be exported"):
        export_market1501(read, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before and not list(tmp_path.glob(".out*"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_market1501(tmp_path / "market")
    out = tmp_path / "out"
    assert main(["data", "export", str(root), "--format", "market1501", "--out", str(out)]) == 0
    assert "45 images, 45 of them hard links" in capsys.readouterr().out
    for words, expected in [
        ([str(root), "--format", "duke", "--out", str(out)], "invalid choice"),
        ([str(root), "--format", "market1501"], "--out"),
        ([str(root), "--format", "market1501", "--out", str(root)], "holds something else"),
        ([str(tmp_path / "nowhere"), "--format", "market1501", "--out", str(out)], "nothing at"),
    ]:
        assert main(["data", "export", *words]) == 2
        text = capsys.readouterr().err
        assert expected in text and text.startswith("error: ")
    assert len(list(root.rglob("*.jpg"))) == 47
