from __future__ import annotations

import io
import os
import socket
import sys
from pathlib import Path

import pytest

from diffreid_lightning.backbones.third_party_checkpoints import open_foreign
from diffreid_lightning.backbones.timm_folder import read_timm_folder
from diffreid_lightning.cli import main
from diffreid_lightning.cli.start_checkpoint import resolve_checkpoint
from diffreid_lightning.config_files import find_config
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.market_export import place_image
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.errors import UserError
from diffreid_lightning.generation.vocabulary import Vocabulary
from diffreid_lightning.manifest.image_root import ImageRoot
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.paths import absolute_path, read_regular, user_path
from tests.fixtures.dataset_layouts import picture, put, write_market1501


@pytest.fixture
def loop(tmp_path: Path) -> str:
    (tmp_path / "loop").symlink_to("loop")
    return str(tmp_path / "loop")


def test_a_path_is_expanded_and_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/nothing") == tmp_path / "nothing" and user_path(Path("a")) == Path("a")
    assert absolute_path("a/../b") == tmp_path / "b"
    (tmp_path / "file").write_bytes(b"")
    assert user_path("file/below") == Path("file/below")  # the caller says that there is no such folder


@pytest.mark.parametrize("given", ["x" * 300, "/".join(["y" * 200] * 30), "~no-such-user/x", "a\0b", "loop"])
def test_a_path_that_cannot_be_looked_for_is_refused_everywhere(given: str, loop: str, tmp_path: Path) -> None:
    given = loop if given == "loop" else given
    for use in (
        user_path,
        ImageRoot,
        open_dataset,
        Manifest.read,
        find_config,
        locate_pipeline,
        Vocabulary.read,
        read_timm_folder,
        lambda path: open_foreign(path, "torchreid"),
        lambda path: resolve_checkpoint(path, tmp_path),
        lambda path: Manifest.from_columns(tmp_path, {"file_name": []}).write(path),
    ):
        with pytest.raises(UserError) as error:
            use(given)
        assert error.value.remedy and len(str(error.value)) < 1500


@pytest.fixture
def special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sound image and everything that is none: what never ends, never begins or is not there."""
    root = tmp_path / "set"
    put(root / "0.jpg", 1, 1)
    os.mkfifo(root / "pipe.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "lost.jpg").symlink_to("nothing")
    (root / "folder.jpg").mkdir()
    (root / "deep").symlink_to("deep")
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(1 << 33)
    monkeypatch.chdir(root)  # a socket's path may be 107 characters long
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.jpg")
    return root


def test_what_is_no_regular_file_is_not_opened(special: Path, tmp_path: Path) -> None:
    root = ImageRoot(special)
    broken = [name for name in root.images() if name != "0.jpg"]
    assert broken == ["huge.jpg", "loop.jpg", "lost.jpg", "pipe.jpg", "socket.jpg", "zero.jpg"]
    assert root.folders() == ["folder.jpg"] and root.read("0.jpg") == picture(1, 1)
    found = {}
    for name in [*broken, "folder.jpg"]:
        with pytest.raises(UserError) as error:
            root.image(name)
        assert name in error.value.what
        found[name] = error.value.found or ""
        if name != "huge.jpg":
            with pytest.raises(UserError):
                place_image(root, name, tmp_path / "placed")
    assert "named pipe" in found["pipe.jpg"] and "device" in found["zero.jpg"] and "socket" in found["socket.jpg"]
    assert "8,589,934,592 bytes" in found["huge.jpg"] and "symbolic links" in found["loop.jpg"]
    with pytest.raises(OSError, match="more than the 10"):
        read_regular(str(special / "0.jpg"), 10)


def test_what_lies_in_a_datasets_place_is_named(special: Path) -> None:
    for name, kind in (("pipe.jpg", "a named pipe"), ("zero.jpg", "a device"), ("lost.jpg", "a link to nothing")):
        with pytest.raises(UserError, match="neither a folder nor an archive") as error:
            ImageRoot(special / name)
        assert error.value.found == kind


def test_a_placed_link_leads_to_the_image(tmp_path: Path) -> None:
    put(tmp_path / "real" / "1.jpg", 1, 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.jpg").symlink_to("../real/1.jpg")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert place_image(ImageRoot(tmp_path / "set"), "1.jpg", tmp_path / "deep" / "er" / "1.jpg")
    assert (tmp_path / "deep" / "er" / "1.jpg").read_bytes() == picture(1, 1)


def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_market1501(tmp_path / os.fsdecode(b"set\xff"))
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["data", "check", str(root)]) == 0
    output.seek(0)
    assert "set\\udcff" in output.read()
