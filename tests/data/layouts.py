"""Tiny datasets in the real layouts and naming of each format, for every test that needs one on the disk.

Each ``write_*`` makes a folder and returns it as a path. People differ in colour, cameras in brightness, images of one
person and camera in a bright bar, so that a small network can learn them. Numbers of images follow from the arguments:
every person has ``images_per_camera`` images in every camera.
"""

from __future__ import annotations

import colorsys
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

TRAIN_IDS = (2, 7, 10, 11)
TEST_IDS = (1, 3, 4)
CAMERAS = (1, 2, 6)


def picture(pid: int, camid: int, index: int = 0, suffix: str = ".jpg", size: tuple[int, int] = (16, 32)) -> bytes:
    """Encode one small image; equal arguments give equal bytes, different ones different pixels."""
    red, green, blue = colorsys.hsv_to_rgb((pid * 0.61803) % 1.0, 0.8, 0.9 - 0.04 * (camid % 16))
    image = Image.new("RGB", size, (int(red * 255), int(green * 255), int(blue * 255)))
    row = (3 * index + camid) % size[1]
    image.paste((255, 255, (37 * index + 11 * camid) % 256), (0, row, size[0], min(row + 2, size[1])))
    buffer = io.BytesIO()
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
    image.save(buffer, formats[suffix.lower()])
    return buffer.getvalue()


def put(file: Path, pid: int, camid: int, index: int = 0) -> None:
    """Write one image, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture(pid, camid, index, file.suffix))


def write_market1501(
    root: Path,
    *,
    train_ids: Iterable[int] = TRAIN_IDS,
    test_ids: Iterable[int] = TEST_IDS,
    cameras: Sequence[int] = CAMERAS,
    images_per_camera: int = 2,
    junk: int = 2,
    distractors: int = 3,
    distractors_500k: int = 0,
) -> Path:
    """Market-1501: ``0002_c1s1_000451_03.jpg``; one query per test person and camera, junk -1 and distractors 0."""
    _market_folders(root, train_ids, test_ids, cameras, images_per_camera, "{pid:04d}_c{cam}s1_{index:06d}_00.jpg")
    gallery = root / "bounding_box_test"
    for index in range(junk):
        put(gallery / f"-1_c{cameras[index % len(cameras)]}s1_{index:06d}_00.jpg", 98, 1, index)
    for index in range(distractors):
        put(gallery / f"0000_c{cameras[index % len(cameras)]}s1_{index:06d}_00.jpg", 99, 1, index)
    for index in range(distractors_500k):
        put(root / "images" / f"0000_c{cameras[index % len(cameras)]}s1_{index + 500000:06d}_00.jpg", 99, 2, index)
    (gallery / "Thumbs.db").write_bytes(b"\x00")  # the published archive really holds these
    return root


def write_dukemtmcreid(
    root: Path,
    *,
    train_ids: Iterable[int] = TRAIN_IDS,
    test_ids: Iterable[int] = TEST_IDS,
    cameras: Sequence[int] = CAMERAS,
    images_per_camera: int = 2,
) -> Path:
    """DukeMTMC-reID: ``0001_c2_f0046182.jpg``."""
    _market_folders(root, train_ids, test_ids, cameras, images_per_camera, "{pid:04d}_c{cam}_f{index:07d}.jpg")
    return root


def write_cuhk03np(
    root: Path,
    *,
    train_ids: Iterable[int] = TRAIN_IDS,
    test_ids: Iterable[int] = TEST_IDS,
    images_per_camera: int = 2,
    boxes: Sequence[str] = ("labeled", "detected"),
) -> Path:
    """CUHK03-NP: ``labeled`` and ``detected`` with ``0001_c1_1.png``, two cameras; detected lacks one train image."""
    for name in boxes:
        _market_folders(root / name, train_ids, test_ids, (1, 2), images_per_camera, "{pid:04d}_c{cam}_{number}.png")
        if name == "detected":
            train = root / name / "bounding_box_train"
            max(train.iterdir()).unlink()
    return root


def write_msmt17(
    root: Path,
    *,
    version: int = 1,
    train_ids: Iterable[int] = (0, 1, 2, 3),
    test_ids: Iterable[int] = (0, 1, 2),
    cameras: Sequence[int] = (1, 4, 12),
    images_per_camera: int = 2,
) -> Path:
    """MSMT17 V1 or V2: ``train/0000/0000_000_01_0303morning_0008_0.jpg`` and the four lists.

    The last train image of each person is in ``list_val.txt``; the first image per test person and camera is a query.
    """
    train, test = {1: ("train", "test"), 2: ("mask_train_v2", "mask_test_v2")}[version]
    lists: dict[str, list[str]] = {name: [] for name in ("train", "val", "query", "gallery")}
    for folder, people in ((train, train_ids), (test, test_ids)):
        for pid in people:
            serial = 0
            for cam in cameras:
                for index in range(images_per_camera):
                    name = f"{pid:04d}/{pid:04d}_{serial:03d}_{cam:02d}_0303morning_{index:04d}_0.jpg"
                    put(root / folder / name, pid + (100 if folder == test else 0), cam, index)
                    split = "train" if folder == train else "query" if index == 0 else "gallery"
                    lists[split].append(f"{name} {pid}")
                    serial += 1
            if folder == train:
                lists["val"].append(lists["train"].pop())
    for name, lines in lists.items():
        (root / f"list_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


def write_msmt17_market(
    root: Path,
    *,
    train_ids: Iterable[int] = (0, 1, 2, 3),
    test_ids: Iterable[int] = (0, 1, 2),
    cameras: Sequence[int] = (1, 4, 12),
    images_per_camera: int = 2,
) -> Path:
    """MSMT17 in Market form: ``0000_c12_0036.jpg``; people of train and test are both numbered from 0."""
    _market_folders(root, train_ids, test_ids, cameras, images_per_camera, "{pid:04d}_c{cam}_{index:04d}.jpg", 100)
    return root


def write_person_folder(
    root: Path,
    *,
    people: Sequence[str] = ("0001", "0002", "0005"),
    test_people: Sequence[str] = (),
    cameras: Sequence[int] = CAMERAS,
    images_per_camera: int = 2,
    camera_in: str = "name",
) -> Path:
    """One folder per person; with ``test_people`` below ``train``, ``query`` and ``gallery``.

    Args:
        root: the folder to make.
        people: names of the train people's folders.
        test_people: names of the test people's folders; their first image per camera is the query.
        cameras: camera numbers.
        images_per_camera: images of each person in each camera.
        camera_in: ``"name"`` for ``cam1_0.jpg``, ``"folder"`` for ``cam1/0.jpg``, ``"none"`` for ``0.jpg``.
    """
    name = {"name": "cam{cam}_{index}.jpg", "folder": "cam{cam}/{index}.jpg", "none": "{serial}.jpg"}[camera_in]
    for part, members in (("train", people), ("test", test_people)):
        for pid, person in enumerate(members):
            for place, cam in enumerate(cameras):
                for index in range(images_per_camera):
                    serial = place * images_per_camera + index
                    split = "train" if part == "train" else "query" if index == 0 else "gallery"
                    folder = root / split if test_people else root
                    file = folder / person / name.format(cam=cam, index=index, serial=serial)
                    put(file, pid + (100 if part == "test" else 0), cam, index)
    return root


def zip_folder(folder: Path, archive: Path, inside: str = "") -> Path:
    """Pack a folder's files into a .zip, below the folder ``inside`` if given."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as handle:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                name = file.relative_to(folder).as_posix()
                handle.writestr(f"{inside}/{name}" if inside else name, file.read_bytes())
    return archive


def _market_folders(
    root: Path,
    train_ids: Iterable[int],
    test_ids: Iterable[int],
    cameras: Sequence[int],
    images_per_camera: int,
    name: str,
    test_colour: int = 0,
) -> None:
    for folder, people in (("bounding_box_train", train_ids), ("test", test_ids)):
        for pid in people:
            number = 0
            for cam in cameras:
                for index in range(images_per_camera):
                    number += 1
                    file = name.format(pid=pid, cam=cam, index=index, number=number)
                    split = folder if folder != "test" else "query" if index == 0 else "bounding_box_test"
                    put(root / split / file, pid + (test_colour if folder == "test" else 0), cam, index)
