"""Files and folders appear whole or not at all, and what a kill leaves comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.diffusion.checkpoints import locate_pipeline
from diffreid_lightning.diffusion.pipeline_io import load_autoencoder
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.scorer_checkpoint import load_scorer
from diffreid_lightning.personalization.checkpoint import load_personalized
from diffreid_lightning.storage.atomic import refuse_foreign, replace_file, replace_folder


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder as a kill between the two renames leaves it."""
    folder = tmp_path / "made"
    for content in ("old", "new"):
        with replace_folder(folder) as partial:
            (partial / "a.txt").write_text(content)
    folder.rename(tmp_path / ".made.previous")
    return folder


def test_the_predecessor_survives_a_failure_after_a_kill(killed: Path) -> None:
    with pytest.raises(RuntimeError), replace_folder(killed) as partial:
        (partial / "a.txt").write_text("half")
        raise RuntimeError
    assert (killed / "a.txt").read_text() == "new"
    with replace_folder(killed) as partial:
        (partial / "a.txt").write_text("newest")
    assert (killed / "a.txt").read_text() == "newest"
    assert [path.name for path in killed.parent.iterdir()] == ["made"]


@pytest.mark.parametrize("read", [load_personalized, load_scorer, locate_pipeline, load_autoencoder, open_dataset])
def test_whoever_looks_for_it_is_told_where_it_is(killed: Path, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(killed.parent.parent)
    asked = f"{killed.parent.name}/made"  # which has the form of a name on the hub
    with pytest.raises(UserError, match=r"the old one at .*\.made\.previous: rename it back"):
        read(asked)  # type: ignore[operator]


def test_a_dataset_inside_it_is_found_as_well(killed: Path) -> None:
    """``select`` replaces the folder around Diff-Person."""
    with pytest.raises(UserError, match=r"\.made\.previous: rename it back"):
        open_dataset(killed / "diff_person")


@pytest.mark.parametrize("contended", [False, True])
def test_a_file_is_replaced_whole(tmp_path: Path, contended: bool) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), replace_file(file, contended=contended) as staged:
        staged.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    with replace_file(file, contended=contended) as staged:
        assert (str(os.getpid()) in staged.name) == contended
        staged.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_only_ones_own_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    refuse_foreign(folder, ["a", "b/c"], "a thing", "look")
    (folder / "b").mkdir(parents=True)
    for name in ("a", "b/c"):
        with pytest.raises(UserError, match=r"(?s)not replaced by a thing.*one, with its b/c.*other files.*look"):
            refuse_foreign(folder, ["a", "b/c"], "a thing", "look")
        (folder / name).touch()
    refuse_foreign(folder, ["a", "b/c"], "a thing", "look")
    with pytest.raises(UserError, match="a file"):
        refuse_foreign(folder / "a", ["a"], "a thing", "look")


def test_what_somebody_has_added_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", ".DS_Store", "._a", ".nfs001", ".lock", ".a.part"):
        (folder / name).touch()
    refuse_foreign(folder, ["a"], "a thing", "Give another.", ("a", "b"))
    (folder / "pretrain").mkdir()
    with pytest.raises(UserError, match=r"(?s)would be lost.*nothing but a, b.*pretrain.*or give another"):
        refuse_foreign(folder, ["a"], "a thing", "Give another.", ("a", "b"))
    (folder / "pretrain").rename(folder / ".git")  # a clone of a hub repository
    for names in (("a", "b"), None):
        with pytest.raises(UserError, match=r"(?s)would be lost.*\.git"):
            refuse_foreign(folder, ["a"], "a thing", "Give another.", names)
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="current folder"):
        refuse_foreign(Path(), ["a"], "a thing", "Give another.")


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "large_disk")
    for content in ("old", "new"):
        with replace_folder(link) as partial:
            (partial / "a.txt").write_text(content)
        assert link.is_symlink() and (tmp_path / "large_disk" / "a.txt").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large_disk", "out"]


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_weights_have_the_mode_of_any_new_file(tmp_path: Path) -> None:
    """Safetensors creates files that their owner alone can read."""
    with replace_folder(tmp_path / "out") as partial:
        (partial / "part").mkdir()
        save_file({"a": torch.zeros(1)}, partial / "part/model.safetensors")
        (partial / "config.json").write_text("{}", encoding="utf-8")
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "out").rglob("*.*")}
    assert len(modes) == 1
