from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_root import ImageRoot, decode_image, is_image_name
from tests.fixtures.dataset_layouts import picture, put, write_market1501, zip_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_market1501(tmp_path / "market")
    for clutter in (
        ".DS_Store",
        "@eaDir/query/x.jpg",
        "query/@eaDir/y.jpg",
        "query/._0001_c1s1_000000_00.jpg",
        "__MACOSX/query/x.jpg",
        ".cache/y.jpg",
        "lost+found/z.jpg",
        "$RECYCLE.BIN/z.jpg",
    ):
        (root / clutter).parent.mkdir(parents=True, exist_ok=True)
        (root / clutter).write_bytes(b"clutter")
    return root


@pytest.fixture
def archive(folder: Path) -> Path:
    return zip_folder(folder, folder.with_suffix(".zip"), inside="inner")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- names


def test_folder_and_archive_hold_the_same(folder: Path, archive: Path) -> None:
    from_folder, from_archive = ImageRoot(folder), ImageRoot(archive / "inner")
    expected = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith((".", "__MACOSX", "@", "lost", "$")) for part in file.relative_to(folder).parts)
    )
    assert from_folder.names() == from_archive.names() == expected
    assert from_folder.folders() == from_archive.folders() == ["bounding_box_test", "bounding_box_train", "query"]
    assert from_folder.images("query") == from_archive.images("query")
    assert all(name.startswith("query/") for name in from_folder.images("query"))
    assert "bounding_box_test/Thumbs.db" in from_folder.names("bounding_box_test")
    assert "bounding_box_test/Thumbs.db" not in from_folder.images()
    assert from_folder.names("nothing") == from_archive.names("nothing") == []
    for name in expected:
        assert from_folder.read(name) == from_archive.read(name)
        assert from_folder.exists(name) and from_archive.exists(name)
    assert not from_folder.exists("query/none.jpg") and not from_archive.exists("query/none.jpg")
    assert not from_folder.exists("query") and not from_archive.exists("query")
    assert (from_folder.in_archive, from_archive.in_archive) == (False, True)


def test_a_prefix_does_not_match_a_longer_folder_name(tmp_path: Path) -> None:
    for name in ("query/1.jpg", "query2/2.jpg"):
        put(tmp_path / "set" / name, 1, 1)
    archive = zip_folder(tmp_path / "set", tmp_path / "set.zip")
    for root in (ImageRoot(tmp_path / "set"), ImageRoot(archive)):
        assert root.names("query") == ["query/1.jpg"]
        assert root.below("query").names() == ["1.jpg"]


def test_below_is_the_same_as_opening_the_folder(folder: Path, archive: Path) -> None:
    for root in (ImageRoot(folder), ImageRoot(archive).below("inner")):
        below, opened = root.below("query"), ImageRoot(root.path / "query")
        assert below.path == opened.path and below.names() == opened.names() != []
        assert below.read(below.names()[0]) == opened.read(opened.names()[0])


def test_peek_stops_early(folder: Path, archive: Path) -> None:
    for root in (ImageRoot(folder), ImageRoot(archive / "inner")):
        assert len(root.peek("query", 3)) == 3 and set(root.peek("query", 3)) <= set(root.images("query"))
        assert root.peek("query", 10**6) == root.images("query")


def test_a_link_that_points_back_up_ends(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a" / "1.jpg", 1, 1)
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set", target_is_directory=True)
    put(tmp_path / "other" / "2.jpg", 1, 1)
    (tmp_path / "set" / "b").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "other" / "back").symlink_to(tmp_path / "set", target_is_directory=True)
    assert ImageRoot(tmp_path / "set").names() == ["a/1.jpg", "b/2.jpg"]
    assert ImageRoot(tmp_path / "set").names("b") == ["b/2.jpg"]


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path) -> None:
    put(tmp_path / "test" / "1.jpg", 1, 1)
    (tmp_path / "set").mkdir()
    for name in ("query", "gallery"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "test", target_is_directory=True)
    assert ImageRoot(tmp_path / "set").names() == ["gallery/1.jpg", "query/1.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.JPG", True),
        ("b.jpeg", True),
        ("b.PnG", True),
        ("b.bmp", True),
        ("b.webp", True),
        ("Thumbs.db", False),
        ("._b.jpg", False),
        ("a/._b.jpg", False),
        ("readme.txt", False),
        ("jpg", False),
        (".jpg", False),
    ],
)
def test_image_names(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected


# --- safety


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "a\\..\\b", "", "a//b", "C:/x"])
def test_a_name_never_leaves_the_root(tmp_path: Path, name: str) -> None:
    put(tmp_path / "secret.jpg", 1, 1)
    put(tmp_path / "set" / "a" / "1.jpg", 1, 1)
    archive = zip_folder(tmp_path / "set", tmp_path / "set.zip")
    for root in (ImageRoot(tmp_path / "set"), ImageRoot(archive)):
        with pytest.raises(UserError, match="leaves its root"):
            root.read(name)
        with pytest.raises(UserError, match="leaves its root"):
            root.exists(name)


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "a/../../x.jpg"])
def test_an_archive_with_names_that_leave_it_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as handle:
        handle.writestr(name, b"x")
    with pytest.raises(UserError, match="names outside of it"):
        ImageRoot(tmp_path / "bad.zip")


def test_archives_by_windows_tools(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as handle:
        handle.writestr("query\\", b"")
        handle.writestr("./", b"")
        handle.writestr("query\\1.jpg", b"x")
        handle.writestr("./query/2.jpg", b"y")
    root = ImageRoot(tmp_path / "windows.zip")
    assert root.names() == ["query/1.jpg", "query/2.jpg"] and root.read("query/1.jpg") == b"x"


def test_different_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for number, (first, again) in enumerate((("a/1.jpg", "a/1.jpg"), ("a/1.jpg", "a\\1.jpg"), ("./1.jpg", "1.jpg"))):
        archive = tmp_path / f"{number}.zip"
        with warnings.catch_warnings(), zipfile.ZipFile(archive, "w") as handle:
            warnings.simplefilter("ignore")  # zipfile notices the first pair itself
            handle.writestr(first, b"x")
            handle.writestr(again, b"x")
        assert ImageRoot(archive).read(again.replace("\\", "/")) == b"x"
        with warnings.catch_warnings(), zipfile.ZipFile(archive, "a") as handle:
            warnings.simplefilter("ignore")
            handle.writestr(again, b"y")
        with pytest.raises(UserError, match="different files of the same name"):
            ImageRoot(archive)


def _packed(archive: Path, kind: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(archive, "w", kind) as handle:
        handle.writestr("1.jpg", picture(1, 1) * 3)
    return bytearray(archive.read_bytes())


def _patched(data: bytearray, place: int, value: int) -> bytearray:
    struct.pack_into("<H", data, place, value)
    return data


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_are_named(tmp_path: Path, kind: int) -> None:
    data = _packed(tmp_path / "set.zip", kind)
    for place in range(40, 70):
        data[place] ^= 0x5A
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip/1\.jpg"):
        ImageRoot(tmp_path / "set.zip").image("1.jpg")


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown method"])
def test_members_that_cannot_be_unpacked_are_named(tmp_path: Path, offset: int, value: int) -> None:
    data = _packed(tmp_path / "set.zip")
    _patched(_patched(data, data.find(b"PK\1\2") + offset, value), offset - 2, value)
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip/1\.jpg"):
        ImageRoot(tmp_path / "set.zip").image("1.jpg")


def test_archives_that_cannot_be_listed_are_named(tmp_path: Path) -> None:
    whole = bytes(_packed(tmp_path / "set.zip"))
    entry = whole.find(b"PK\1\2")
    not_utf8 = _patched(bytearray(whole), entry + 8, 0x800)
    not_utf8[entry + 46] = 0xFF
    newer = _patched(bytearray(whole), entry + 6, 99)
    for data in (whole[: len(whole) // 2], whole[:-8], b"", b"PK\3\4" * 9, newer, not_utf8):
        (tmp_path / "set.zip").write_bytes(data)
        with pytest.raises(UserError, match="cannot be opened"):
            ImageRoot(tmp_path / "set.zip")
    (tmp_path / "set.zip").write_bytes(b"#!/bin/sh\n" * 9 + whole)  # an archive that unpacks itself
    assert ImageRoot(tmp_path / "set.zip").read("1.jpg") == picture(1, 1) * 3


def test_a_member_is_read_no_further_than_its_size_and_an_images_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("1.jpg", bytes(1 << 26))
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.find(b"PK\1\2") + 24, 1000)  # it says 1000 bytes
    archive.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"1\.jpg"):
        ImageRoot(archive).read("1.jpg")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    struct.pack_into("<I", data, data.find(b"PK\1\2") + 24, (1 << 28) + 1)
    archive.write_bytes(data)
    with pytest.raises(UserError) as error:
        ImageRoot(archive).read("1.jpg")
    assert "unpacks to 268,435,457 bytes" in str(error.value.found)


def test_an_archive_inside_an_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as handle:
        handle.writestr("inner.zip", bytes(_packed(tmp_path / "inner.zip")))
    with pytest.raises(UserError) as error:
        ImageRoot(tmp_path / "outer.zip" / "inner.zip")
    assert "unpack the archive" in str(error.value.remedy)


# --- wrong places


def test_a_missing_place_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "market1501").mkdir()
    with pytest.raises(UserError, match=r"did you mean .*market1501"):
        ImageRoot(tmp_path / "market-1501")
    with pytest.raises(UserError, match=r"market1501") as error:
        ImageRoot(tmp_path / "nowhere" / "deeper")
    assert "There is nothing at" in str(error.value)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(b"tar" * 1000)
    with pytest.raises(UserError, match="cannot be opened"):
        ImageRoot(tmp_path / "set.tar")


def test_a_missing_folder_in_an_archive_names_what_is_there(archive: Path) -> None:
    with pytest.raises(UserError, match="inner"):
        ImageRoot(archive / "outer")


# --- processes


def _digest(root: ImageRoot, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(root.read(name))
    return digest.hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_archive_is_read_from_several_processes_at_once(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as handle:
        for index in range(200):
            handle.writestr(f"{index:03d}.bin", rng.bytes(20_000))
    root = ImageRoot(tmp_path / "set.zip")
    names = root.names()
    expected = _digest(root, names)  # the parent's handle is open and its position somewhere
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_digest, [(root, names)] * 4) == [expected] * 4
    assert _digest(root, names) == expected


def test_a_forked_child_opens_the_archive_anew(archive: Path) -> None:
    root = ImageRoot(archive)
    names = root.images()
    assert root._archive is not None
    parent = root._archive.open()[0]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:  # inherits the root as it is; a pool would pickle it and drop the handle
        assert root._archive is not None
        answers.put((root._archive.open()[0] is parent, _digest(root, names)))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    same, digest = answers.get()
    assert not same and digest == _digest(root, names) and root._archive.open()[0] is parent


def test_an_archive_is_read_from_several_threads_at_once(archive: Path) -> None:
    root = ImageRoot(archive)
    names = root.images()
    expected = _digest(root, names)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: _digest(root, names), range(8))) == [expected] * 8


def test_roots_can_be_pickled(folder: Path, archive: Path) -> None:
    for root in (ImageRoot(folder), ImageRoot(archive / "inner"), ImageRoot(archive).below("inner")):
        again = pickle.loads(pickle.dumps(root))
        assert again.path == root.path and again.names() == root.names()


# --- decoding


def test_modes_become_rgb() -> None:
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (8, 1))
    grey = Image.fromarray(ramp)
    color = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey))
    expected = np.asarray(color)
    assert np.array_equal(np.asarray(decode_image(encode(color), "x")), expected)
    assert np.array_equal(np.asarray(decode_image(encode(color.quantize(256)), "x")), expected)
    assert np.array_equal(np.asarray(decode_image(encode(grey), "x")), np.repeat(ramp[..., None], 3, 2))
    assert np.array_equal(np.asarray(decode_image(encode(color.convert("RGBA")), "x")), expected)
    deep = Image.fromarray(ramp.astype(np.uint16) * 256)
    assert np.array_equal(np.asarray(decode_image(encode(deep), "x")), np.repeat(ramp[..., None], 3, 2))
    one_bit = decode_image(encode(grey.point(lambda value: 255 * (value > 100), "1")), "x")
    assert set(np.unique(np.asarray(one_bit))) == {0, 255}
    for image in (decode_image(encode(color.convert("CMYK"), "JPEG", quality=95), "x"), one_bit):
        assert image.mode == "RGB" and image.size == (16, 8)
    cmyk = np.asarray(decode_image(encode(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG"), "x"))
    assert np.abs(cmyk.astype(int) - (200, 30, 60)).max() < 12


def test_transparent_pixels_lie_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert np.asarray(decode_image(encode(image), "x")).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 90, 90, 90])
    palette.putpixel((1, 0), 1)
    assert np.asarray(decode_image(encode(palette, transparency=1), "x")).tolist() == [[[10, 20, 30], [255] * 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), (0, 0, 0))
    upright.paste((255, 0, 0), (0, 0, 16, 8))
    to_stored = {  # how a camera that notes this orientation has stored the upright picture
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(to_stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(stored, "JPEG", exif=exif, quality=95), "x")
    assert decoded.size == (32, 16)
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(upright)).mean() < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0MM", b"Exif\0\0XX\0*\0\0\0\x08", b"Exif\0\0MM\0*\0\0"])
def test_an_exif_that_cannot_be_read_leaves_a_sound_image(exif: bytes) -> None:
    assert decode_image(encode(Image.new("RGB", (32, 16)), "PNG", exif=exif), "x").size == (32, 16)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_broken_images_are_named(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    whole = encode(
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), np.uint8)),
        {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}[suffix],
    )
    broken = {"empty": b"", "cut": whole[: len(whole) // 2], "head": whole[:20], "text": b"<html>404</html>" * 9}
    for name, data in broken.items():
        (tmp_path / f"{name}{suffix}").write_bytes(data)
        with pytest.raises(UserError) as error:
            ImageRoot(tmp_path).image(f"{name}{suffix}")
        assert str(tmp_path / f"{name}{suffix}") in str(error.value) and error.value.remedy
    (tmp_path / f"whole{suffix}").write_bytes(whole)
    assert ImageRoot(tmp_path).image(f"whole{suffix}").size == (32, 64)


def test_a_missing_image_is_named(folder: Path, archive: Path) -> None:
    for root in (ImageRoot(folder), ImageRoot(archive / "inner")):
        with pytest.raises(UserError, match=r"query/none\.jpg"):
            root.image("query/none.jpg")
        with pytest.raises(UserError):
            root.read("query")


def test_a_damaged_archive_member_is_named(tmp_path: Path) -> None:
    put(tmp_path / "set" / "1.jpg", 1, 1)
    archive = zip_folder(tmp_path / "set", tmp_path / "set.zip")
    data = bytearray(archive.read_bytes())
    place = data.find(picture(1, 1)[100:120])
    data[place : place + 20] = bytes(20)
    archive.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"set\.zip/1\.jpg"):
        ImageRoot(archive).image("1.jpg")


def test_formats_that_start_other_programs_are_not_opened() -> None:
    with pytest.raises(UserError) as error:
        decode_image(encode(Image.new("RGB", (4, 4)), "EPS"), "x.jpg")
    assert "they start with b'%!PS" in str(error.value)  # not even taken for EPS


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="DecompressionBomb"):
        decode_image(data, "x.png")


# --- fingerprints


def test_a_fingerprint_follows_the_files_and_not_their_names(folder: Path) -> None:
    names = ImageRoot(folder).images()
    before = ImageRoot(folder).fingerprint(names)
    assert ImageRoot(folder).fingerprint(iter(names)) == before
    assert ImageRoot(folder).fingerprint(names[:-1]) != before
    file = folder / names[0]
    stat, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:-1] + b"x")  # as a crop of the same size in bytes
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert ImageRoot(folder).fingerprint(names) != before
    file.write_bytes(data + b"x")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ImageRoot(folder).fingerprint(names) != before
    file.unlink()
    assert ImageRoot(folder).fingerprint(names) != before


def test_a_fingerprint_of_an_archive_follows_its_checksums(folder: Path, archive: Path) -> None:
    names = ImageRoot(archive / "inner").images()
    before = ImageRoot(archive / "inner").fingerprint(names)
    again = zip_folder(folder, folder.with_name("again.zip"), inside="inner")
    assert ImageRoot(again / "inner").fingerprint(names) == before, "wherever and whenever it was packed"
    file = folder / names[0]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    changed = zip_folder(folder, folder.with_name("changed.zip"), inside="inner")
    assert ImageRoot(changed / "inner").fingerprint(names) != before
