"""Files of any depth and mode: scaled by a rule that is the same for a whole set, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from diffreid_lightning.cli import main
from diffreid_lightning.datasets.image_checks import describe_pixels
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.image_decoding import (
    ColorDepthError,
    DepthError,
    count_frames,
    decode_image,
    deep_values,
    scale_gray,
    value_range,
)
from tests.unit.manifest.test_image_root import encode

RAMP: npt.NDArray[np.uint8] = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
"""(32, 64): 64 grey levels over the whole range."""


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(decode_image(data, "x"))


def grey(values: npt.NDArray[Any], kind: str = "PNG") -> bytes:
    return encode(Image.fromarray(values), kind)


def png(depth: int, color_type: int, samples: npt.NDArray[Any]) -> bytes:
    """Write a PNG that Pillow cannot write: 16 bits per channel in color; ``samples`` is (H, W, channels)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(bits: int, samples: bytes, size: tuple[int, int], photometric: int = 1, kind: int = 1) -> bytes:
    """Write a grey TIFF that Pillow cannot write; size is width and height, kind 1 unsigned and 2 signed."""
    width, height = size
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, height)]
    tags += [(279, len(samples)), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + samples


@pytest.mark.parametrize(
    "data",
    [
        grey(RAMP.astype(np.uint16) * 257),
        grey(RAMP.astype(np.uint16) * 257, "TIFF"),
        grey(RAMP.astype(">u2") * np.uint16(257), "TIFF"),
        grey(RAMP.astype(np.int32), "TIFF"),
        grey(RAMP.astype(np.int32) * 257, "TIFF"),
        grey((RAMP / 255).astype(np.float32), "TIFF"),
        grey(RAMP.astype(np.float32), "TIFF"),
        b"P5 64 32 65535\n" + (RAMP.astype(">u2") * np.uint16(257)).tobytes(),
        png(16, 0, RAMP[..., None].astype(np.uint16) * 257),
        png(16, 2, np.repeat(RAMP[..., None].astype(np.uint16) * 257, 3, 2)),
        tiff(16, ((255 - RAMP.astype("<u2")) * np.uint16(257)).tobytes(), (64, 32), photometric=0),
    ],
)
def test_values_that_fill_their_type_keep_every_level(data: bytes) -> None:
    assert np.array_equal(decoded(data), np.repeat(RAMP[..., None], 3, 2))


def test_a_stated_depth_is_the_range() -> None:
    twelve = RAMP.astype(np.uint16) << 4
    pairs = twelve.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    assert np.array_equal(decoded(tiff(12, packed.astype(np.uint8).tobytes(), (64, 32)))[..., 0], RAMP)
    ten = RAMP.astype(np.uint16) * 4
    shown = decoded(b"P5 64 32 1023\n" + ten.astype(">u2").tobytes())[..., 0]
    assert np.abs(shown.astype(int) - RAMP).max() <= 1


SHALLOW = {
    "8 bits in 16": grey(RAMP.astype(np.uint16)),
    "12 bits in 16": grey(RAMP.astype(np.uint16) * 16),
    "14 bits in 16": grey(RAMP.astype(np.uint16) * 64 + np.arange(32, dtype=np.uint16)[:, None]),
    "thermal": grey(7000 + RAMP.astype(np.uint16) * 4),
    "thermal in Celsius": grey((18 + RAMP / 16).astype(np.float32), "TIFF"),
    "thermal in Kelvin": grey((290 + RAMP / 16).astype(np.float32), "TIFF"),
    "beyond 16 bits": grey(RAMP.astype(np.int32) * 1000, "TIFF"),
    "negative": grey(RAMP.astype(np.int32) - 100, "TIFF"),
    "signed": tiff(16, (RAMP.astype("<i2") * 100 - 9000).tobytes(), (64, 32), kind=2),
    "not finite": grey(np.where(RAMP == 0, np.nan, RAMP / 255).astype(np.float32), "TIFF"),
    "12 bits in 16, color": png(16, 2, np.repeat(RAMP[..., None].astype(np.uint16) * 16, 3, 2)),
    "8 bits in 16, grey and alpha": png(16, 4, np.stack([RAMP.astype(np.uint16), RAMP.astype(np.uint16) * 0 - 1], 2)),
    "12 bits in 16, color of a PPM": b"P6 64 32 65535\n"
    + np.repeat(RAMP.astype(np.uint16) * 16, 3).astype(">u2").tobytes(),
}


def with_hot_pixel(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    values = values.copy()
    values[0, 0] = 65535
    return values


TWELVE = np.repeat(RAMP[..., None].astype(np.uint16) * 16, 3, 2)
SHALLOW |= {
    "12 bits in 16 and a hot pixel": grey(with_hot_pixel(TWELVE[..., 0])),
    "8 bits in 16 and a hot pixel": grey(with_hot_pixel(RAMP.astype(np.uint16))),
    "12 bits in 16 and a hot pixel, color": png(16, 2, with_hot_pixel(TWELVE)),
    "12 bits in 16, color of an ASCII PPM": f"P3 64 32 65535 {' '.join(map(str, TWELVE.ravel()))}\n".encode(),
    "12 bits in 16 and a hot pixel, ASCII PGM": (
        f"P2 64 32 65535 {' '.join(map(str, with_hot_pixel(TWELVE[..., 0]).ravel()))}\n".encode()
    ),
}


@pytest.mark.parametrize("kind", SHALLOW)
def test_values_that_would_be_lost_are_refused(kind: str) -> None:
    with pytest.raises(DepthError) as error:
        decode_image(SHALLOW[kind], "crops/1.png")
    assert "crops/1.png" in error.value.what
    in_color = "color" in kind or "alpha" in kind
    assert isinstance(error.value, ColorDepthError) == in_color
    assert ("magick mogrify" if in_color else "data check") in str(error.value.remedy)


def test_a_stray_percent_does_not_set_the_range() -> None:
    twelve = TWELVE[..., 0]
    assert value_range(twelve) == (0, 4032)
    assert value_range(with_hot_pixel(twelve)) == (0, 4032)
    hot = decode_image(grey(with_hot_pixel(RAMP.astype(np.uint16) * 257)), "x")
    assert describe_pixels(hot) == ""
    few = np.tile(np.arange(16, dtype=np.uint8) * 8, (32, 4))
    few[0, :20] = np.arange(200, 220)
    assert describe_pixels(Image.fromarray(few).convert("RGB")) == "of few levels"
    black = np.zeros((64, 32), np.uint8)
    black[3, 3] = 255
    assert describe_pixels(Image.fromarray(black).convert("RGB")) == "black"


def test_dark_and_flat_images_of_a_deep_set_pass_where_nothing_is_lost() -> None:
    flat = np.full((8, 8), 0x2020, np.uint16)
    assert set(np.unique(decoded(grey(flat)))) == {0x20}
    dark = (RAMP // 8).astype(np.uint16) * 257  # 8 bits written as 16
    assert np.array_equal(decoded(grey(dark))[..., 0], RAMP // 8)


def test_one_image_does_not_change_the_scale_of_another() -> None:
    half = RAMP // 2
    bright, dim = (decoded(grey(values.astype(np.uint16) * 257)) for values in (RAMP, half))
    assert np.array_equal(bright[..., 0] // 2, dim[..., 0])


def test_grey_is_written_anew_by_one_range() -> None:
    thermal = 7000 + RAMP.astype(np.uint16) * 4
    for kind in ("PNG", "TIFF"):
        scaled = scale_gray(grey(thermal, kind), 7000, 8020)
        assert scaled is not None and np.array_equal(decoded(scaled)[..., 0], RAMP)
        assert Image.open(io.BytesIO(scaled)).format == kind
    clipped = scale_gray(grey(thermal), 7400, 7600)
    assert clipped is not None and {0, 255} <= set(np.unique(decoded(clipped)))
    assert scale_gray(grey(RAMP), 0, 1) is None and scale_gray(b"<html>", 0, 1) is None and deep_values(b"") is None


def test_other_modes() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 60))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    for data in (encode(lab, "TIFF"), encode(red.convert("YCbCr"), "TIFF"), encode(red.convert("CMYK"), "TIFF")):
        assert np.abs(decoded(data).astype(int) - (200, 30, 60)).max() <= 2
    keyed = decoded(encode(red, transparency=(200, 30, 60)))  # a color that stands for transparent
    assert set(np.unique(keyed)) == {255}
    assert decoded(encode(Image.new("L", (1, 1), 7))).tolist() == [[[7, 7, 7]]]


def test_frames_are_counted() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for kind in ("GIF", "TIFF", "WEBP"):
        data = encode(red, kind, save_all=True, append_images=[blue, red])
        assert count_frames(data) == 3 and np.abs(decoded(data).astype(int) - (255, 0, 0)).max() < 8
    assert count_frames(encode(red)) == count_frames(encode(red, "JPEG")) == 1


def test_an_image_of_too_many_pixels_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)  # Pillow itself would only warn
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(UserError, match="40 x 40 pixels"):
        decode_image(data, "x.png")


def test_the_command_that_is_printed_for_deep_images_mends_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for person in range(1, 4):
        for camera in range(2):
            file = tmp_path / "thermal" / str(person) / f"cam{camera}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(grey(np.roll(7000 + RAMP.astype(np.uint16) * 4, 7 * person + camera, axis=1)))
    assert main(["data", "check", str(tmp_path / "thermal"), "--decode"]) == 1
    printed = capsys.readouterr().out
    assert "6 images of more than 8 bits" in printed and "✓" not in printed and "values from 7000 to 8008" in printed
    words = next(line for line in printed.splitlines() if "--gray_range" in line).partition("diffreid_lightning ")[2]
    place = {"PATH": str(tmp_path / "thermal"), "DIR": str(tmp_path / "mended")}
    assert main([place.get(word, word) for word in words.split()]) == 0
    assert main(["data", "check", str(tmp_path / "mended"), "--decode"]) == 0
    assert len(list((tmp_path / "mended").rglob("*.png"))) == 6
    values = np.unique(decoded(next((tmp_path / "mended").rglob("*.png")).read_bytes()))
    assert (values.min(), values.max(), len(values)) == (0, 255, 64)
    for low, high in (("1", "1"), ("2", "1"), ("0", "inf"), ("nan", "1")):
        words_ = ["data", "export", place["PATH"], "--format", "market1501", "--out", place["DIR"]]
        assert main([*words_, "--gray_range", low, high]) == 2
