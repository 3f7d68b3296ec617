"""Small copies of datasets that users of this field hold, as their authors lay them out and name them.

Each function makes a folder and returns what is in it, counted by hand and not by any reader: (identities, images,
cameras) of each split. File names are those that the loaders of fast-reid, torchreid, OpenUnReID and Simple-CCReID
read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.layouts import put

Numbers = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Layout:
    """A dataset on the disk.

    Args:
        options: arguments of PersonFolder that read it.
        numbers: identities, images and cameras by split, under these options.
        derived: the same as the message about the folder has it; None: as ``numbers``.
        junk: images that are no person's.
    """

    options: dict[str, Any]
    numbers: Numbers
    derived: Numbers | None = None
    junk: int = 0


def _write(folder: Path, names: Iterable[str]) -> None:
    for index, name in enumerate(names):
        put(folder / name, index, 1, index)


def veri(root: Path) -> Layout:
    """VeRi-776: ``image_train/0001_c001_00016450_0.jpg``, three-digit cameras."""
    for split, people in (("train", (1, 3, 4)), ("query", (2, 5)), ("test", (2, 5))):
        cameras = (1, 2, 20) if split != "query" else (1, 20)
        _write(root / f"image_{split}", (f"{p:04d}_c{c:03d}_{p * c:08d}_0.jpg" for p in people for c in cameras))
    (root / "name_train.txt").write_text("0001_c001_00000001_0.jpg\n")
    options = {"pattern": r"(?P<pid>\d+)_c(?P<camera>\d+)_", "train": "image_train", "query": "image_query"}
    numbers = {"train": (3, 9, 3), "query": (2, 4, 2), "gallery": (2, 6, 3)}
    return Layout({**options, "gallery": "image_test"}, numbers)


def viper(root: Path) -> Layout:
    """VIPeR: ``cam_a/000_45.bmp`` and ``cam_b/000_90.bmp``, one image of each person in each view."""
    for camera, angle in (("cam_a", 45), ("cam_b", 90)):
        _write(root / "VIPeR" / camera, (f"{p:03d}_{angle}.bmp" for p in range(6)))
    return Layout({"pattern": r"(?P<camera>cam_[ab])/(?P<pid>\d+)_"}, {"train": (6, 12, 2)})


def viper_split(root: Path) -> Layout:
    """VIPeR with half of the people to train on, cam_a searched for in cam_b."""
    viper(root)
    options = {"pattern": r"(?P<camera>cam_[ab])/(?P<pid>\d+)_", "train": "cam_?/00[0-2]*"}
    numbers = {"train": (3, 6, 2), "query": (3, 3, 1), "gallery": (3, 3, 1)}
    return Layout({**options, "query": "cam_a/00[!0-2]*", "gallery": "cam_b/00[!0-2]*"}, numbers, {"train": (6, 12, 2)})


def prid(root: Path) -> Layout:
    """PRID 2011: persons from 201 on are others in each view, under the same numbers."""
    views = {"cam_a": (1, 2, 150, 200, 201, 385), "cam_b": (1, 2, 150, 200, 201, 385, 749)}
    for camera, people in views.items():
        _write(root / "prid_2011/single_shot" / camera, (f"person_{p:04d}.png" for p in people))
        _write(
            root / "prid_2011/multi_shot" / camera, (f"person_{p:04d}/{k:04d}.png" for p in people[:2] for k in (1, 2))
        )
    (root / "prid_2011/readme.txt").write_text("x")
    train = ["single_shot/cam_?/person_0[01]??.png", "single_shot/cam_?/person_0200.png"]
    return Layout({"pattern": r"cam_(?P<camera>[ab])/person_(?P<pid>\d+)", "train": train}, {"train": (4, 8, 2)})


def cuhk01(root: Path) -> Layout:
    """CUHK01: ``campus/0001003.png``; images 1 and 2 are of one view, 3 and 4 of the other."""
    _write(root / "campus", (f"{p:04d}{k:03d}.png" for p in (1, 2, 971) for k in (1, 2, 3, 4)))
    pattern = r"^(?P<pid>\d{4})(?P<camera>0(?=0[12]\.)|00(?=[34]\.))"
    return Layout({"pattern": pattern}, {"train": (3, 12, 2)})


def cuhk_sysu(root: Path) -> Layout:
    """CUHK-SYSU crops: ``cropped_images/p11422_s16929_1.jpg``, no cameras."""
    _write(root / "cropped_images", (f"p{p}_s{s}_{k}.jpg" for p in (1, 11422) for s in (3, 16929) for k in (0, 1)))
    return Layout({"pattern": r"^p(?P<pid>\d+)_s"}, {"train": (2, 8, 8)})


def vehicle_id(root: Path) -> Layout:
    """VehicleID: images of a number, whose vehicles stand in lists; no cameras."""
    _write(root / "image", (f"{k:07d}.jpg" for k in range(1, 13)))
    lists = root / "train_test_split"
    lists.mkdir()
    (root / "attribute").mkdir()
    (root / "attribute" / "img2vid.txt").write_text("0000001 7\n")
    (lists / "train_list.txt").write_text("".join(f"{k:07d} {k // 4 + 7}\n" for k in range(8)[1:]))
    (lists / "test_list_800.txt").write_text("".join(f"{k:07d} {k // 10 + 20}\n" for k in range(8, 13)))
    options = {"pattern": r" (?P<pid>\d+)$", "train": "train_test_split/train_list.txt"}
    numbers = {"train": (2, 7, 7), "val": (2, 5, 5)}
    return Layout({**options, "val": "train_test_split/test_list_800.txt"}, numbers, {"train": (2, 7, 7)})


def veri_wild(root: Path) -> Layout:
    """VeRi-Wild: ``images/00001/000001.jpg`` and lists of ``00001/000001``; cameras are in a file not read."""
    names = [f"{p:05d}/{p * 10 + k:06d}" for p in (1, 2, 3, 4) for k in (0, 1, 2)]
    _write(root / "images", (f"{name}.jpg" for name in names))
    lists = root / "train_test_split"
    lists.mkdir()
    for file, part in (
        ("train_list", names[:6]),
        ("test_3000_query", names[6::3]),
        ("test_3000", names[7:9] + names[10:]),
    ):
        (lists / f"{file}.txt").write_text("\n".join(part))
    (lists / "vehicle_info.txt").write_text("id/image;Camera ID\n")
    options = {"pattern": r"(?P<pid>\d+)/[^/]+$", "train": "train_test_split/train_list.txt"}
    options |= {"query": "train_test_split/test_3000_query.txt", "gallery": "train_test_split/test_3000.txt"}
    return Layout(options, {"train": (2, 6, 6), "query": (2, 2, 2), "gallery": (2, 4, 4)})


def rand_person(root: Path) -> Layout:
    """RandPerson: ``000000_s00_c00_f000264.jpg``, cameras numbered in each scene."""
    views = [(0, 0), (0, 1), (1, 0)]
    _write(root / "randperson_subset", (f"{p:06d}_s{s:02d}_c{c:02d}_f{p:06d}.jpg" for p in (0, 1, 2) for s, c in views))
    return Layout({"pattern": r"^(?P<pid>\d+)_(?P<camera>s\d+_c\d+)_"}, {"train": (3, 9, 3)})


def person_x(root: Path) -> Layout:
    """PersonX: Market-1501's folders, ``0001_c3_07.jpg`` with cameras up to 12."""
    for folder, people in (("bounding_box_train", (0, 1, 5)), ("query", (2, 3)), ("bounding_box_test", (2, 3))):
        cameras = (3, 12) if folder != "query" else (3,)
        _write(root / folder, (f"{p:04d}_c{c}_{k:02d}.jpg" for p in people for c in cameras for k in (1, 7)))
    numbers = {"train": (3, 12, 2), "query": (2, 4, 1), "gallery": (2, 8, 2)}
    return Layout({"pattern": r"^(?P<pid>\d+)_c(?P<camera>\d+)_"}, numbers)


def last(root: Path) -> Layout:
    """LaST: folders of people in train and the galleries, flat queries; no cameras."""
    for folder, people in (("train", (0, 1, 2)), ("val/gallery", (10, 11)), ("test/gallery", (20, 21))):
        _write(root / folder, (f"{p:06d}/{p:06d}_{k:02d}_.jpg" for p in people for k in (0, 1)))
    for folder, people in (("val/query", (10, 11)), ("test/query", (20, 21))):
        _write(root / folder, (f"{p:06d}_09_.jpg" for p in people))
    options = {"pattern": r"^(?P<pid>\d+)_", "train": "train", "val": "val"}
    numbers = {"train": (3, 6, 6), "val": (2, 6, 6), "query": (2, 2, 2), "gallery": (2, 4, 4)}
    return Layout({**options, "query": "test/query", "gallery": "test/gallery"}, numbers)


def prcc(root: Path) -> Layout:
    """PRCC: ``rgb/train/001/A_cropped_rgb001.jpg``, but ``rgb/test/A/001/cropped_rgb001.jpg``; sketches beside."""
    for kind in ("rgb", "sketch"):
        for split, people in (("train", (1, 2, 4)), ("val", (1, 2, 4))):
            offset = 0 if split == "train" else 10
            names = (f"{p + offset:03d}/{c}_cropped_{kind}{p:03d}.jpg" for p in people for c in "ABC")
            _write(root / kind / split, names)
        _write(
            root / kind / "test",
            (f"{c}/{p:03d}/cropped_{kind}{k:03d}.jpg" for c in "ABC" for p in (3, 5) for k in (1, 2)),
        )
    options = {"pattern": r"(?=.*/(?P<camera>[ABC])[/_])(?:.*/)?(?P<pid>\d+)/", "train": "rgb/train", "val": "rgb/val"}
    numbers = {"train": (3, 9, 3), "val": (3, 9, 3), "query": (2, 4, 1), "gallery": (2, 4, 1)}
    return Layout({**options, "query": "rgb/test/C", "gallery": "rgb/test/A"}, numbers)


def ltcc(root: Path) -> Layout:
    """LTCC: ``train/094_1_c9_015833.png`` (person, clothes, camera); ``test`` is the gallery."""
    for folder, people in (("train", (94, 95)), ("query", (1, 2)), ("test", (1, 2))):
        cameras = (4, 9, 12) if folder != "query" else (4, 9)
        names = (f"{p:03d}_{k}_c{c}_0{p:03d}{c:02d}.png" for p in people for k in (1, 2) for c in cameras)
        _write(root / folder, names)
    options = {"pattern": r"^(?P<pid>\d+)_\d+_c(?P<camera>\d+)_", "train": "train", "query": "query"}
    numbers = {"train": (2, 12, 3), "query": (2, 8, 2), "gallery": (2, 12, 3)}
    return Layout({**options, "gallery": "test"}, numbers)


def celeb_reid(root: Path) -> Layout:
    """Celeb-reID: ``train/1_1_0.jpg`` (person, image, nothing); no cameras."""
    for folder, people, images in (("train", (1, 2, 10), (1, 2)), ("query", (3, 4), (1,)), ("gallery", (3, 4), (2, 3))):
        _write(root / folder, (f"{p}_{k}_0.jpg" for p in people for k in images))
    return Layout({"pattern": r"^(?P<pid>\d+)_"}, {"train": (3, 6, 6), "query": (2, 2, 2), "gallery": (2, 4, 4)})


def vc_clothes(root: Path) -> Layout:
    """VC-Clothes: ``train/0001-01-02-03.jpg`` (person, camera, clothes, image)."""
    for folder, people in (("train", (1, 2, 3)), ("query", (256, 257)), ("gallery", (256, 257))):
        cameras = (1, 2, 4) if folder != "query" else (1, 2)
        _write(root / folder, (f"{p:04d}-{c:02d}-{k:02d}-00.jpg" for p in people for c in cameras for k in (1, 2)))
    numbers = {"train": (3, 18, 3), "query": (2, 8, 2), "gallery": (2, 12, 3)}
    return Layout({"pattern": r"^(?P<pid>\d+)-(?P<camera>\d+)-"}, numbers)


def mars(root: Path) -> Layout:
    """MARS: ``bbox_train/0001/0001C1T0001F001.jpg``, junk 00-1; its queries stand in a .mat file that is not read."""
    for folder, people in (("bbox_train", (1, 3)), ("bbox_test", (2, 4))):
        frames = (
            f"{p:04d}/{p:04d}C{c}T{t:04d}F{f:03d}.jpg" for p in people for c in (1, 6) for t in (1, 2) for f in (1, 2)
        )
        _write(root / folder, frames)
    _write(root / "bbox_test", ("00-1/00-1C1T0001F001.jpg", "0000/0000C1T0001F001.jpg"))
    (root / "info").mkdir()
    (root / "info" / "query_IDX.mat").write_bytes(b"MATLAB 5.0")
    tracks = {"query": "T0001F001.jpg", "gallery": "T0002F00{}.jpg"}
    (root / "query.txt").write_text("".join(f"{p:04d}C{c}{tracks['query']}\n" for p in (2, 4) for c in (1, 6)))
    gallery = "".join(f"{p:04d}C{c}{tracks['gallery'].format(f)}\n" for p in (2, 4) for c in (1, 6) for f in (1, 2))
    (root / "gallery.txt").write_text(gallery + "00-1C1T0001F001.jpg\n")
    options = {"pattern": r"(?P<pid>\d+)C(?P<camera>\d)T", "train": "bbox_train", "query": "query.txt"}
    numbers = {"train": (2, 16, 2), "query": (2, 4, 2), "gallery": (2, 8, 2)}
    return Layout({**options, "gallery": "gallery.txt"}, numbers, {"train": (2, 16, 2)}, junk=1)


def flat_splits(root: Path) -> Layout:
    """Flat folders Train, Query and Gallery with Market-1501's kind of names."""
    for folder, people in (("Train", (1, 2, 3)), ("Query", (20, 21)), ("Gallery", (20, 21))):
        cameras = (1, 2) if folder != "Query" else (1,)
        _write(root / folder, (f"{p:04d}_c{c}_{k:06d}.jpg" for p in people for c in cameras for k in (1, 2)))
    numbers = {"train": (3, 12, 2), "query": (2, 4, 1), "gallery": (2, 8, 2)}
    return Layout({"pattern": r"^(?P<pid>\d+)_c(?P<camera>\d+)"}, numbers)


def ilids_vid(root: Path) -> Layout:
    """iLIDS-VID: ``sequences/cam1/person001/cam1_person001_00001.png``."""
    frames = (
        f"cam{c}/person{p:03d}/cam{c}_person{p:03d}_{k:05d}.png" for c in (1, 2) for p in (1, 2, 319) for k in (1, 2)
    )
    _write(root / "sequences", frames)
    return Layout({"pattern": r"(?P<camera>cam\d)/person(?P<pid>\d+)/"}, {"train": (3, 12, 2)})


def prepared_pytorch(root: Path) -> Layout:
    """The ``pytorch`` folder of a well-known tutorial: people's folders below train, val, train_all, query, gallery."""
    name = "{p:04d}/{p:04d}_c{c}s1_00000{c}_00.jpg".format
    _write(root / "train_all", (name(p=p, c=c) for p in (2, 7) for c in (1, 2, 3)))
    _write(root / "train", (name(p=p, c=c) for p in (2, 7) for c in (2, 3)))
    _write(root / "val", (name(p=p, c=1) for p in (2, 7)))
    _write(root / "query", (name(p=p, c=1) for p in (1, 3)))
    _write(root / "multi-query", (name(p=p, c=c) for p in (1, 3) for c in (1, 2)))
    _write(root / "gallery", (name(p=p, c=c) for p in (1, 3) for c in (2, 3)))
    options = {"pattern": r"^(?P<pid>\d+)_c(?P<camera>\d+)s", "train": "train_all", "query": "query"}
    return Layout({**options, "gallery": "gallery"}, {"train": (2, 6, 3), "query": (2, 2, 1), "gallery": (2, 4, 2)})


def deep_change(root: Path) -> Layout:
    """DeepChange: ``train-set/P1C12S1.jpg``-like names in five folders of long names."""
    for folder, people in (("train-set", (1, 2)), ("val-set-query", (5,)), ("val-set-gallery", (5, 6))):
        _write(root / folder, (f"P{p}_C{c}_S1_{k}.jpg" for p in people for c in (1, 17) for k in (1, 2)))
    for folder, cameras in (("test-set-query", (3,)), ("test-set-gallery", (3, 4))):
        _write(root / folder, (f"P{p}_C{c}_S1_{k}.jpg" for p in (8, 9) for c in cameras for k in (1, 2)))
    options = {"pattern": r"^P(?P<pid>\d+)_C(?P<camera>\d+)_", "train": "train-set"}
    options |= {"query": "test-set-query", "gallery": "test-set-gallery"}
    numbers = {"train": (2, 8, 2), "query": (2, 4, 1), "gallery": (2, 8, 2)}
    val = {"val": ["val-set-query", "val-set-gallery"]}
    return Layout({**options, **val}, {**numbers, "val": (2, 12, 2)})


def grid(root: Path) -> Layout:
    """GRID: probe and gallery, ``0001_1_25004_107_32_106_221.jpeg`` (person, camera, box)."""
    _write(root / "probe", (f"{p:04d}_{p}_25004_107_32_106_221.jpeg" for p in (1, 2)))
    _write(root / "gallery", (f"{p:04d}_5_25008_169_19_94_22{k}.jpeg" for p, k in ((1, 1), (2, 1), (0, 1), (0, 2))))
    options = {"pattern": r"^(?P<pid>\d+)_(?P<camera>\d+)_", "query": "probe", "gallery": "gallery"}
    # Without a pattern for its cameras, each image is taken for its own: query and gallery share none here.
    return Layout(options, {"query": (2, 2, 2), "gallery": (3, 4, 1)}, {"query": (2, 2, 2), "gallery": (3, 4, 4)})


def camera_folders(root: Path) -> Layout:
    """People in words with folders of cameras below them."""
    for folder, people in (("train", ("anna", "bob")), ("query", ("eva",)), ("gallery", ("eva", "fay"))):
        _write(root / folder, (f"{p}/{c}/{folder}.jpg" for p in people for c in "AB"))
    options = {"camera_folders": True}
    return Layout(options, {"train": (2, 4, 2), "query": (1, 2, 2), "gallery": (2, 4, 2)})


FIELD_LAYOUTS = (
    *(
        veri,
        viper,
        viper_split,
        prid,
        cuhk01,
        cuhk_sysu,
        vehicle_id,
        veri_wild,
        rand_person,
        person_x,
        last,
        prcc,
        ltcc,
    ),
    *(celeb_reid, vc_clothes, mars, flat_splits, ilids_vid, prepared_pytorch, deep_change, grid, camera_folders),
)
