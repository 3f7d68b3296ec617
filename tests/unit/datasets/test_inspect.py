from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from diffreid_lightning.cli.commands.data import print_report
from diffreid_lightning.datasets import MSMT17, Counts, ManifestDataset, Market1501, PersonFolder, open_dataset
from diffreid_lightning.datasets.image_checks import Decoded
from diffreid_lightning.datasets.inspect import check, decode_all
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.dataset_layouts import put, write_market1501, write_msmt17, write_person_folder, zip_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_market1501(tmp_path / "market")


def test_the_report_of_a_small_market(root: Path) -> None:
    put(root / "bounding_box_train" / "0500_c1s1_000001_00.jpg", 5, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the table says it; a warning would say it again
        report = check(root)
    train, query, gallery = report.splits
    assert (train.split, query.split, gallery.split) == ("train", "query", "gallery")
    assert train.counts == Counts(5, 25, 3) and gallery.counts == Counts(4, 12, 3)
    assert train.images_per_id == (1, 6.0, 6) and train.single_image_ids == 1
    assert gallery.images_per_id == (3, 3.0, 3) and gallery.distractors == 3
    assert report.junk == 2 and report.unmatched_queries == 0 and report.shared_numbers == 0
    assert report.decoded is None and not report.cameras_unknown
    assert report.ok and len(report.hints) == 3 and not check(root, strict=True).ok


def test_published_counts_that_are_met_need_no_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(4, 12, 3)}
    monkeypatch.setattr(Market1501, "published_counts", exact)
    report = check(root, strict=True)
    assert report.ok and report.hints == []
    monkeypatch.setattr(Market1501, "published_counts", exact | {"val": Counts(1, 1, 1)})
    assert check(root).differences == {"val": (Counts(1, 1, 1), None)}


@pytest.mark.parametrize("seed", range(6))
def test_queries_without_a_match_against_plain_python(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        (rng.choice(["query", "gallery", "train"]), rng.choice("ab"), rng.randrange(6), rng.randrange(-2, 3))
        for _ in range(60)
    ]
    manifest = Manifest.from_columns(
        tmp_path,
        {
            "file_name": [f"{index}.jpg" for index in range(60)],
            "split": [row[0] for row in rows],
            "source": [row[1] for row in rows],
            "partition": ["train" if row[0] == "train" else "test" for row in rows],
            "pid": [row[2] for row in rows],
            "camid": [row[3] for row in rows],
            "role": "identity",
        },
    )
    manifest.write(tmp_path)
    report = check(ManifestDataset(tmp_path))
    gallery = [row for row in rows if row[0] == "gallery"]
    unmatched = sum(
        not any(entry[1:3] == query[1:3] and entry[3] != query[3] for entry in gallery)
        for query in rows
        if query[0] == "query"
    )
    shared = {row[1:3] for row in rows if row[0] == "train"} & {row[1:3] for row in rows if row[0] != "train"}
    assert report.unmatched_queries == unmatched > 0
    assert report.shared_numbers == len(shared) and report.leaked_ids == 0


def test_an_identity_in_train_and_in_test_is_a_problem(root: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manifest = Market1501(root).manifest()
    manifest.with_columns({"partition": "all", "pid": [1] * len(manifest), "role": "identity"}).write(tmp_path / "out")
    report = check(tmp_path / "out")
    assert report.leaked_ids == 1
    leak, lone = report.problems
    assert leak.startswith("1 identities are in train and in ") and lone.startswith("only one identity to train on")


def test_numbers_that_restart_in_test_are_no_hint(tmp_path: Path) -> None:
    assert check(MSMT17(write_msmt17(tmp_path / "msmt"))).shared_numbers is None
    same_people = write_person_folder(tmp_path / "people", people=["1", "2"], test_people=["2", "3"])
    report = check(PersonFolder(same_people, pattern=r"cam(?P<camera>\d+)"))
    assert report.shared_numbers == 1 and any("the test is invalid" in text for text in report.hints)


def test_unknown_cameras_are_said(tmp_path: Path) -> None:
    report = check(write_person_folder(tmp_path / "people", test_people=["8", "9"], camera_in="none"))
    assert report.cameras_unknown and report.unmatched_queries == 0
    assert any("cameras are unknown" in text for text in report.hints)


@pytest.mark.parametrize("images", [99, 100])
def test_folders_that_may_be_cameras_are_worth_a_look(tmp_path: Path, images: int) -> None:
    for door in ("door1", "door2"):
        (tmp_path / door).mkdir()
        for number in range(images):
            (tmp_path / door / f"{number:03}.jpg").write_bytes(b"not opened")
    told = [hint for hint in check(tmp_path).hints if "recipes/adapt" in hint]
    assert bool(told) == (images == 100)
    assert images < 100 or told[0].startswith("2 people with about 100 images each")


@pytest.mark.parametrize("packed", [False, True])
def test_decoding_lists_every_broken_image(root: Path, tmp_path: Path, packed: bool) -> None:
    files = sorted((root / "bounding_box_train").iterdir())[:3]
    whole = files[0].read_bytes()
    for file, data in zip(files, (b"", whole[: len(whole) // 2], b"<html>"), strict=True):
        file.write_bytes(data)
    steps: list[tuple[int, int]] = []
    place = zip_folder(root, tmp_path / "market.zip") if packed else root
    report = check(place, decode=True, on_progress=lambda *step: steps.append(step))
    assert report.decoded is not None and report.decoded.images == 45
    assert [name for name, _ in report.decoded.broken] == [f"bounding_box_train/{file.name}" for file in files]
    assert not report.ok and steps[-1] == (45, 45)
    assert "0 bytes" in report.decoded.broken[0][1]
    assert check(place).ok  # not asked to decode


def test_decoding_finds_copies(root: Path) -> None:
    train = sorted((root / "bounding_box_train").iterdir())
    (root / "query" / "0001_c6s1_900000_00.jpg").write_bytes(train[0].read_bytes())
    (root / "bounding_box_train" / "0007_c6s1_900000_00.jpg").write_bytes(train[0].read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = decode_all(Market1501(root).manifest())
    assert decoded.train_test_copies == ("query/0001_c6s1_900000_00.jpg",)
    assert set(decoded.mislabeled_copies) == {
        "query/0001_c6s1_900000_00.jpg",
        "bounding_box_train/0007_c6s1_900000_00.jpg",
    }


@pytest.mark.parametrize("restart", [False, True])
def test_a_copy_in_train_and_gallery_is_of_another_person_only_where_numbers_restart(
    tmp_path: Path, restart: bool
) -> None:
    root = write_person_folder(tmp_path / "people", people=["1", "2"], test_people=["2", "3"])
    copied = next(iter(sorted((root / "train" / "2").iterdir())))
    (root / "gallery" / "2" / "cam9_copy.jpg").write_bytes(copied.read_bytes())
    decoded = decode_all(open_dataset(root).manifest(), pids_restart=restart)
    assert decoded.train_test_copies == ("gallery/2/cam9_copy.jpg",) and not decoded.repeated
    assert bool(decoded.mislabeled_copies) == restart


def _write(file: Path, pixels: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file)


def test_decoding_names_images_that_show_nothing_or_little(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8)
    for person in range(4):
        _write(tmp_path / f"{person}/cam1_sound.png", noise[person])
        _write(tmp_path / f"{person}/cam2_sound.png", noise[person][::-1])
    _write(tmp_path / "0/cam1_black.png", noise[0] // 32)
    _write(tmp_path / "1/cam1_black.png", np.zeros((32, 16)))
    _write(tmp_path / "1/cam1_white.png", np.full((32, 16, 3), 255))
    _write(tmp_path / "2/cam1_flat.png", np.full((32, 16, 3), (120, 90, 60)))
    _write(tmp_path / "3/cam1_steps.png", noise[3] // 64 * 64)
    frames = [Image.fromarray(image) for image in noise]
    frames[3].save(tmp_path / "3/cam1_pages.tif", save_all=True, append_images=frames[:2])
    report = check(PersonFolder(tmp_path, pattern=r"cam(?P<camera>\d+)"), decode=True)
    decoded = report.decoded
    assert decoded is not None and decoded.broken == () and decoded.deep_range is None
    assert dict(decoded.empty) == {
        "black": ("0/cam1_black.png", "1/cam1_black.png"),
        "white": ("1/cam1_white.png",),
        "of one color": ("2/cam1_flat.png",),
    }
    assert decoded.few_levels == ("3/cam1_steps.png",) and decoded.several_frames == ("3/cam1_pages.tif",)
    assert decoded.repeated == ("3/cam1_sound.png",)  # pixel for pixel the first of the pages
    assert len(report.problems) == 3 and "2 images are black: 0/cam1_black.png, 1/cam1_black.png" in report.problems


def test_a_few_images_that_show_nothing_are_worth_a_look_only() -> None:
    empty = (("black", ("a.png",)), ("white", ("b.png",)))
    many, few = Decoded(200, empty=empty), Decoded(201, empty=empty)
    assert many.problems == ["1 images are black: a.png", "1 images are white: b.png"] == few.hints
    assert not few.problems and not many.hints


def test_decoding_counts_an_image_that_is_there_again_and_again(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 16, 3), np.uint8)
    for person in range(3):
        for camera in range(3):
            _write(tmp_path / f"{person}/cam{camera}.png", noise[3 * person + camera])
    for person, camera in ((0, 1), (0, 2), (2, 1)):
        _write(tmp_path / f"{person}/cam{camera}.png", noise[0])
    report = check(PersonFolder(tmp_path, pattern=r"cam(?P<camera>\d+)"), decode=True)
    decoded = report.decoded
    assert decoded is not None and decoded.most_repeated == 4
    assert decoded.repeated == ("0/cam1.png", "0/cam2.png") and decoded.mislabeled_copies == ("2/cam1.png",)
    assert report.ok and "one image occurs 4 times" in report.hints
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=200))
    last = buffer.getvalue().splitlines()[-1]
    assert "✓" not in last and "not all as they should be" in last


def test_many_batches_keep_their_order(tmp_path: Path) -> None:
    names = [f"{index:04d}.png" for index in range(700)]
    for index, name in enumerate(names):
        put(tmp_path / "set" / name, index, 1)
    (tmp_path / "set" / names[650]).write_bytes(b"x")
    base: dict[str, Any] = {"source": "s", "partition": "train", "camid": 1, "split": "train", "role": "identity"}
    manifest = Manifest.from_columns(tmp_path / "set", {"file_name": names, "pid": range(700), **base})
    assert [name for name, _ in decode_all(manifest).broken] == ["0650.png"]
