"""``data check``: what it prints and how it exits."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from diffreid_lightning.cli import main
from diffreid_lightning.cli.commands.data import print_report
from diffreid_lightning.datasets import Counts, Market1501, PersonFolder
from diffreid_lightning.datasets.inspect import Report, check
from diffreid_lightning.visualization import identity_sheet as sheets
from tests.fixtures.dataset_layouts import put, write_market1501


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_market1501(tmp_path / "market")


def printed(report: Report, encoding: str = "utf-8") -> str:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_report(report, Console(file=buffer, width=100))
    buffer.seek(0)
    return buffer.read()


def test_published_counts_stand_beside_ours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(check(root))
    assert "images -12,912" in text and "dropped as junk: 2" in text and "751 ids, 12,936 images" in text
    exact = {"train": Counts(4, 24, 3), "query": Counts(3, 9, 3), "gallery": Counts(4, 12, 3)}
    monkeypatch.setattr(Market1501, "published_counts", exact)
    report = check(root, strict=True)
    assert printed(report).count("✓") == 4
    assert "no problem found" in printed(report)
    assert "no problem" not in text, "not after what deserves a look"
    assert "ok" in printed(report, "ascii") and "✓" not in printed(report, "ascii")
    monkeypatch.setattr(Market1501, "published_counts", exact | {"val": Counts(1, 1, 1)})
    assert "missing" in printed(check(root))


def test_crops_that_nobody_has_labeled_are_checked_as_images_alone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = root / "bounding_box_train"
    assert main(["data", "check", str(crops), "--format", "CropFolder", "--decode"]) == 0
    assert "unlabeled crops" in (said := capsys.readouterr().out) and "identity" not in said
    sorted(crops.iterdir())[0].write_bytes(b"")
    assert main(["data", "check", str(crops), "--format", "CropFolder", "--decode"]) == 1
    assert "1 broken" in capsys.readouterr().out


def test_broken_images_hints_and_problems_are_listed(root: Path) -> None:
    broken = sorted((root / "bounding_box_train").iterdir())[0]
    broken.write_bytes(b"")
    report = check(root, decode=True)
    lines = printed(report).splitlines()
    assert any(broken.name in line and "0 bytes" in line for line in lines)
    assert sum(line.startswith("look: ") for line in lines) == len(report.hints) > 0
    assert sum(line.startswith("problem: ") for line in lines) == len(report.problems) == 1
    assert lines[-1] == "problems: 1"


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(root), "--decode"]) == 0
    assert "Market-1501" in capsys.readouterr().out
    assert main(["data", "check", str(root), "--strict"]) == 1
    assert main(["data", "check", str(root), "--format", "Market1501", "--source", "shop"]) == 0
    assert "published: 751 ids" in capsys.readouterr().out
    for words, expected in [
        ([str(root), "--format", "market1501"], "did you mean Market1501"),
        ([str(root), "--format", "DukeMTMCReID"], "this looks like Market1501"),
        ([str(root / "nowhere")], "nothing at"),
    ]:
        capsys.readouterr()
        assert main(["data", "check", *words]) == 2
        assert expected in " ".join(capsys.readouterr().err.split())


def test_a_mistaken_command_is_answered_as_elsewhere(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in [
        ([], "data check PATH"),
        (["chek", str(root)], "data check PATH"),
        (["check"], "data check PATH"),
        (["check", str(root), "--decod"], "did you mean --decode?"),
        (["check", str(root), "--format"], "--format"),
    ]:
        assert main(["data", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert expected in error
    assert main(["data", "check", "--help"]) == 0


@pytest.mark.parametrize("given", ["market/query", "market/bounding_box_train", "."])
def test_a_folder_one_level_off_leads_to_the_dataset(
    given: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_market1501(root.parent / "other")
    assert main(["data", "check", str(root.parent / given)]) == 2
    assert f"did you mean {root} (Market1501)" in capsys.readouterr().err


def test_a_sheet_shows_the_people_with_most_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for person, images in (("1", 1), ("2", 5), ("3", 2), ("4", 1), ("5", 4)):
        for number in range(images):
            put(tmp_path / person / f"{number}.jpg", int(person), 1, number)
    shown: list[str] = []
    monkeypatch.setattr(sheets, "draw_samples", lambda lines: shown.extend(title for title, _ in lines))
    monkeypatch.setattr(sheets, "side_by_side", lambda parts: Image.new("RGB", (1, 1)))
    sheets.identity_sheet(PersonFolder(tmp_path).manifest(), identities=3, images=4)
    assert [int(title.partition("-")[2][:4]) for title in shown] == [2, 3, 5]


def test_a_sheet_shows_people_and_is_the_same_every_time(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "sheet", str(root), "--identities", "3", "--images", "2", "--out"]
    assert main([*words, str(tmp_path / "new/one.png")]) == 0
    assert main([*words, str(tmp_path / "two.png")]) == 0
    assert str(tmp_path / "two.png") in capsys.readouterr().out
    one, two = (Image.open(tmp_path / name) for name in ("new/one.png", "two.png"))
    assert one.tobytes() == two.tobytes()
    assert 2 * 64 < one.width < 3 * 64 and 3 * 128 < one.height < 4 * 128


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--out", "sheet"], "end it in .png or .jpg"),
        ([], "--out FILE.png"),
        (["--out", "x.png", "--images", "0"], "at least 1"),
        (["--out", "x.png", "--split", "tain"], "nobody to show"),
        (["--out", "file/x.png"], "There can be no folder"),
        (["--out", "file/below/x.png"], "There can be no folder"),
        (["--out", "folder.png"], "A path cannot be used"),
    ],
)
def test_a_mistaken_sheet_is_answered(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert main(["data", "sheet", str(root), *words]) == 2
    said = capsys.readouterr().err
    assert hint in said and "Traceback" not in said
