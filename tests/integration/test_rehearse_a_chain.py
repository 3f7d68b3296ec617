"""A rehearsal by the command line: a chain on few people in a folder of its own, what it finds, and its restart."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import diffreid_lightning.diffusion
from benchmarks.killed_chain import contents, differences
from diffreid_lightning.cli import main
from diffreid_lightning.datasets.subset_dataset import Subset
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.checkpoint_layouts import write_checkpoint
from tests.fixtures.command_line import run_stages_here, start
from tests.fixtures.dataset_layouts import write_market1501
from tests.integration.test_run_the_chain import TINY_CHAIN

WORDS = Path(diffreid_lightning.diffusion.__file__).parent / "tiny_sd" / "tokenizer"
STAGES = ["caption", "personalize", "generate", "score", "score_generated", "select"]
SENTINELS = ("caption/metadata.parquet", ".stages/caption.json", "previous/001/select/report/summary.txt")


class Rehearsed:
    """A finished rehearsal of three of five people, two stages of whose whole chain lie in the root already."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "out"
        self.data = write_market1501(folder / "data", train_ids=range(2, 14), cameras=(1, 2), images_per_camera=2)
        model = write_checkpoint(folder / "model", "sd1", WORDS)
        for name in SENTINELS:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(name, encoding="utf-8")
        self.asked = ["--data", str(self.data), "--model", str(model), "--identities", "3"]

    def copy(self, folder: Path) -> Rehearsed:
        """Copy what it made, for a test that changes it."""
        other = copy.copy(self)
        other.root = shutil.copytree(self.root, folder / "out")
        return other

    def run(self, *words: str) -> int:
        """Run the command."""
        return main([*TINY_CHAIN, "--rehearse", *self.asked, "--root", str(self.root), "--jobs", "1", *words])

    @property
    def folder(self) -> Path:
        """Everything that it made."""
        return self.root / "rehearsal"

    @property
    def found(self) -> dict[str, Any]:
        """What it has found."""
        return dict(json.loads((self.folder / "rehearsal.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsed]:
    folder = tmp_path_factory.mktemp("rehearsal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages_here(patch)
        made = Rehearsed(folder)
        assert made.run() == 0
        yield made


def test_it_takes_some_of_the_chains_people_and_leaves_the_chain_alone(rehearsed: Rehearsed) -> None:
    assert {path.name for path in rehearsed.root.iterdir()} == {"caption", ".stages", "previous", "rehearsal"}
    for name in SENTINELS:
        assert (rehearsed.root / name).read_text(encoding="utf-8") == name
    assert [name for name in STAGES if (rehearsed.folder / f".stages/{name}.json").is_file()] == STAGES
    assert not (rehearsed.folder / "pretrain").exists()
    whole = Subset(str(rehearsed.data), identities=5, seed=0).manifest()
    chosen = Manifest.read(rehearsed.folder / "caption").identities()[1]
    assert len(chosen) == 3 and set(chosen) < set(whole.filter(whole.numpy("split") == "train").identities()[1])


def test_its_numbers_are_those_of_the_manifests(rehearsed: Rehearsed) -> None:
    found, scored = rehearsed.found, Manifest.read(rehearsed.folder / "score_generated").table.to_pylist()
    assert found["rehearsed"] == {"identities": 3, "real": 12, "images_per_identity": 4, "generated": 12}
    assert found["full"] == {"identities": 5, "real": 20, "images_per_identity": 4, "generated": 20}
    assert found["images"] == len(scored) == 12 and found["chance"] == pytest.approx(1 / 3)
    assert found["recognized"] == pytest.approx(sum(row["margin"] > 0 for row in scored) / 12)
    right = sum(row["nearest_label"] == f"market1501-{row['pid']:04d}" for row in scored)
    assert found["consistent"] == pytest.approx(right / 12)
    kept = Manifest.read(rehearsed.folder / "select/diff_person").table.to_pylist()
    assert found["kept"] == len(kept) and found["kept_share"] == pytest.approx(len(kept) / 12)
    assert found["identities_lost"] == 3 - len({row["pid"] for row in kept}) == 0
    card = (rehearsed.folder / "select/diff_person/README.md").read_text(encoding="utf-8")
    assert f"{found['variety']['kept']:.3f} (mean cosine distance" in card


def test_its_costs_are_extrapolated_by_what_they_grow_with(rehearsed: Rehearsed) -> None:
    found = rehearsed.found
    assert list(found["stages"]) == STAGES
    for name, cost in found["stages"].items():
        grows = {"caption": "real", "personalize": "real", "score": "real"}.get(name, "generated")
        assert (cost["scales_with"], cost["images"]) == (grows, 12)
        if name == "select":
            assert cost["per_image"] is None and cost["full_seconds"] == cost["seconds"]
        else:
            assert 0 < 12 * cost["per_image"] <= cost["seconds"] and cost["peak_gib"] > 0.1
            assert cost["full_seconds"] == pytest.approx(cost["seconds"] + 8 * cost["per_image"])
    assert found["full_seconds"] == pytest.approx(sum(each["full_seconds"] for each in found["stages"].values()))
    images = sum(file.stat().st_size for file in (rehearsed.folder / "generate/images").rglob("*.jpg"))
    used, full = found["disk_bytes"]["used"], found["disk_bytes"]["full"]
    assert images * 8 / 12 < full - used < used * 8 / 12, "images grow, weights and logs do not"


def test_started_again_it_runs_nothing_and_finds_the_same(
    rehearsed: Rehearsed, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rehearsed.found
    assert rehearsed.run() == 0
    said = capsys.readouterr().out
    assert "Rehearsal: 3 of 5 identities, 4 of 4 generated images of each (12 of 20)" in said
    assert said.count(" done ") == len(STAGES)
    for name, share in (("recognized", "recognized"), ("consistent", "consistent"), ("kept", "kept_share")):
        assert re.search(rf"{name} +│ +{before[share]:.1%} │", said), said
    assert "chance 33.3%" in said and str(rehearsed.folder / "rehearsal.json") in said
    assert {**rehearsed.found, "disk_bytes": 0} == {**before, "disk_bytes": 0}


def test_a_filter_that_nothing_passes_is_a_finding(rehearsed: Rehearsed, tmp_path: Path) -> None:
    rehearsed = rehearsed.copy(tmp_path)
    strict = tmp_path / "strict.yaml"
    run = "select --config stages/select --rules [FixedThreshold] --rules.threshold 2 --rules.score margin"
    strict.write_text(f"stages: {{select: {{run: '{run}'}}}}\n", encoding="utf-8")
    process = start(
        [*TINY_CHAIN, "--rehearse", *rehearsed.asked, "--root", str(rehearsed.root), "--config", str(strict)], tmp_path
    )
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = rehearsed.found
    assert (found["kept"], found["identities_lost"], found["variety"]) == (0, 3, None)
    assert "No image passes the chain's filter." in said and "3 of 3 have no image left" in said
    assert found["suggestions"] and len(found["suggestions"]) <= 3
    assert all(each["flags"] in said for each in found["suggestions"])


def test_the_chain_for_photographs_is_planned_small(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_market1501(tmp_path / "data", train_ids=range(2, 8))
    model = write_checkpoint(tmp_path / "model", "sd1", WORDS)
    words = ["--config", "chains/tour", "--config", "chains/market1501", "--data", str(data), "--model", str(model)]
    assert command("pipeline", *words, "--rehearse", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Rehearsal: 6 of 6 identities, 8 of 32 generated images of each (48 of 192)" in said, (
        "there are fewer than 50"
    )
    assert "DIFFREID_ROOT=runs/market1501/rehearsal" in said and "DIFFREID_IDENTITIES=6" in said
    assert re.search(r"stages/generate .*--data.images_per_identity 8$", said, re.MULTILINE)
    assert "select --config stages/select --rules.floor 2" in said, "of 8, as 6 of 32 in the chain"
    assert "stages/pretrain" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--config", "none.yaml"], "without a stage 'generate'"),
        (["--config", "unfiltered.yaml"], "without a stage 'select'"),
        (["--config", "mute.yaml"], "without a variable 'identities'"),
        (["--until", "generate"], "leave out --from and --until"),
        (["--identities", "1"], "a whole number of 2 or more"),
        (["--identities", "0.5"], "a whole number of 2 or more"),
        (["--list_file", "names.txt"], "--list_file null"),
        (["--images", "few"], "'images' is no number"),
        (["--images", "3"], "Subset.images"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    unfiltered = "stages: {select: null, pretrain: null, transfer: null%s}\ntable: {Diff-Person: null}\n"
    (tmp_path / "unfiltered.yaml").write_text(unfiltered % "")
    (tmp_path / "none.yaml").write_text(unfiltered % ", generate: null, score_generated: null")
    stages = "".join(f"  {name}: {{run: fit, makes: [made.txt]}}\n" for name in STAGES)
    stages = stages.replace("generate: {run: fit", "generate: {run: predict --config stages/generate", 1)
    (tmp_path / "mute.yaml").write_text(f"variables: {{root: out, data: miniperson}}\nstages:\n{stages}")
    below = [] if "mute.yaml" in words else ["--config", "chains/tour"]
    assert command("pipeline", *below, *words, "--rehearse", "--dry-run") == 2
    said = capsys.readouterr().err
    assert hint in said and "Traceback" not in said


def test_killed_before_its_end_it_does_what_is_left_and_makes_the_same(
    rehearsed: Rehearsed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = rehearsed.copy(tmp_path)
    (again.folder / "rehearsal.json").unlink()
    (again.folder / ".stages/select.json").unlink()
    shutil.rmtree(again.folder / "select")
    capsys.readouterr()
    assert again.run() == 0
    said = capsys.readouterr().out
    assert said.count(" done ") == len(STAGES) - 1 and re.search(r"select +to do +not run yet", said), said
    assert {**again.found, "stages": 0, "full_seconds": 0, "disk_bytes": 0} == {
        **rehearsed.found, "stages": 0, "full_seconds": 0, "disk_bytes": 0,
    }  # fmt: skip
    one, two = contents(rehearsed.folder), contents(again.folder)
    assert len(one) > 20 and "select/diff_person/metadata.parquet" in one and not differences(one, two)
