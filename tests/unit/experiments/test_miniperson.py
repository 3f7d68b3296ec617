"""The figures of MiniPerson's card, on people counted by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import rendered_again
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import Manifest
from experiments.dataset import miniperson


def manifest(folder: Path, colors: list[tuple[int, int, int]], pids: list[int], splits: list[str]) -> Manifest:
    names = []
    for number, color in enumerate(colors):
        names.append(f"{number}.png")
        Image.new("RGB", (6, 12), color).save(folder / names[-1])
    count = len(names)
    return Manifest.from_columns(
        folder,
        {
            "file_name": names, "source": "toy", "partition": "test", "pid": pids, "camid": list(range(count)),
            "split": splits, "role": ["identity" if pid else "distractor" for pid in pids],
            "sex": "male", "upper_colour": ["red" if pid in (0, 1, 2) else "blue" for pid in pids],
            "lower_colour": "grey",
        },
    )  # fmt: skip


def test_sharing_counts_people_not_images_nor_distractors(tmp_path: Path) -> None:
    black = (0, 0, 0)
    made = manifest(tmp_path, [black] * 5, [0, 1, 2, 2, 3], ["gallery"] * 5)
    assert miniperson.coarse_share(made) == pytest.approx(2 / 3), "1 and 2 share; 3 is alone; 0 is nobody"


def test_histograms_sum_to_one_and_stripes_tell_top_from_bottom(tmp_path: Path) -> None:
    picture = np.zeros((12, 6, 3), dtype=np.uint8)
    picture[:6] = (255, 0, 0)
    made = manifest(tmp_path, [(0, 0, 0)] * 2, [1, 1], ["query", "gallery"])
    Image.fromarray(picture).save(tmp_path / "0.png")
    Image.fromarray(picture[::-1].copy()).save(tmp_path / "1.png")
    whole, striped = (miniperson.color_histograms(made, stripes) for stripes in (1, 2))
    np.testing.assert_allclose((whole**2).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(whole[0], whole[1])
    assert float(striped[0] @ striped[1]) == pytest.approx(0)


def test_matching_by_color_finds_who_keeps_it(tmp_path: Path) -> None:
    red, blue, green = (250, 0, 0), (0, 0, 250), (0, 250, 0)
    made = manifest(tmp_path, [red, blue, red, blue, green], [1, 2, 1, 2, 0], ["query"] * 2 + ["gallery"] * 3)
    assert miniperson.histogram_map(made, 1) == pytest.approx(100)


def test_a_finished_fit_is_read_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "fit-001").mkdir()
    (tmp_path / "fit-001/results.csv").write_text(
        "stage,dataset,weights,mAP,Rank-1,Rank-5,Rank-10,mINP\ntest,x,last,61.5,72.25,1,1,1\n"
    )
    training = miniperson.Training("never run", ("--no-such-option",))
    assert miniperson.fitted("campus", training, 0, tmp_path) == (61.5, 72.25)


def test_no_seed_and_a_failed_fit_end_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert miniperson.main(["--seeds", "0", "--work", str(tmp_path)]) == 2
    assert "--seeds must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(RunError, match="A fit failed"):
        miniperson.fitted("campus", miniperson.TRAININGS["default"], 0, tmp_path)


def test_a_rendering_is_compared_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "again").mkdir()
    grey = (100, 100, 100)
    ours, again = (manifest(tmp_path / name, [grey] * 3, [1, 1, 2], ["query"] * 3) for name in ("ours", "again"))
    found = rendered_again.compare(ours, again)
    assert (found.same_files, found.images, found.largest, found.changed) == (3, 3, 0, 0.0)
    picture = np.full((12, 6, 3), 100, dtype=np.uint8)
    picture[0, :3, 1] = 93
    Image.fromarray(picture).save(tmp_path / "again/1.png")
    found = rendered_again.compare(ours, again)
    assert found.same_manifest
    assert (found.same_files, found.largest) == (2, 7)
    assert found.changed == pytest.approx(3 / 72), "of the pixels of the one file that differs"
    with pytest.raises(UserError, match="not a rendering"):
        rendered_again.compare(ours, again.take([0, 1]))
