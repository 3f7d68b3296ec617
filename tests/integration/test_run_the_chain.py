"""The chain that ships: its plan, and what its stages saw, on a few people and a random model."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import diffreid_lightning.diffusion
from benchmarks.killed_chain import contents, differences
from diffreid_lightning.cli import main
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.datasets.subset_dataset import Subset
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.fingerprints import Record, forget_hashes, stage_key
from diffreid_lightning.pipeline.graph import Stage, read_chain
from tests.fixtures.checkpoint_layouts import write_checkpoint
from tests.fixtures.command_line import run_stages_here, start
from tests.fixtures.dataset_layouts import write_market1501, write_person_folder

TINY = str(Path(__file__).parents[1] / "fixtures/tiny_chain.yaml")
TINY_CHAIN = ("pipeline", "--config", "chains/tour", "--config", TINY)
STAGES = ("caption", "personalize", "generate", "score", "score_generated", "select", "pretrain", "transfer")


def test_the_tour_consists_of_every_stage_and_its_rivals() -> None:
    chain = read_chain(["chains/tour"], {})
    assert [stage.name for stage in chain.stages] == [*STAGES, "scratch", "imagenet"]
    assert set(chain.table.values()) == {"scratch", "transfer", "imagenet"}
    assert {"contact sheet", "score histogram", "dataset card", "W&B run"} <= set(chain.pictures)
    for stage in chain.stages:
        assert stage.settings(), "its configs are found"
    transfer, scratch = (next(s for s in chain.stages if s.name == name) for name in ("transfer", "scratch"))
    assert scratch.words[: len(transfer.words)] == transfer.words, "one schedule for both rows"


def test_other_pixels_under_the_same_names_reach_every_stage_that_reads_them(tmp_path: Path) -> None:
    """Captions may come out the same, so the manifest between would not tell."""
    data = write_market1501(tmp_path / "data", train_ids=range(2, 8))
    chain = read_chain(["chains/tour"], {"data": str(data), "root": str(tmp_path / "out")})
    outputs = dict.fromkeys((stage.name for stage in chain.stages), "the same")

    def keys() -> dict[str, str]:
        forget_hashes()
        return {stage.name: stage_key(chain, stage, outputs) for stage in chain.stages}

    before = keys()
    image = next(data.rglob("0002_c1*.jpg"))
    image.write_bytes(next(data.rglob("0003_c1*.jpg")).read_bytes())
    after = keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == after.keys() - {"select", "pretrain"}, "these two read what was generated"


@pytest.mark.parametrize("more", [[], ["--config", "chains/tour", "--config", "chains/quick"]])
def test_the_plan_names_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", *more, "--dry-run"]) == 0
    said = capsys.readouterr().out
    planned = re.findall(r"^  (\w+) ", said, re.MULTILINE)
    assert planned[: len(STAGES) + 1] == [*STAGES, "scratch"]
    assert "not run yet" in said
    by_hand = [shlex.split(line) for line in said.partition("by hand:")[2].splitlines() if line.strip()]
    assert by_hand[0][0] == "export"
    assert {word.partition("=")[0] for word in by_hand[0][1:]} >= {"DIFFREID_ROOT", "DIFFREID_DATA"}
    chain = read_chain(more[1::2] or ["chains/tour"], {})
    commands = [tuple(words[3:]) for words in by_hand[1:]]
    assert commands == [stage.words for stage in chain.stages if stage.available]
    assert not any(tmp_path.iterdir()), "a plan makes nothing"


def test_a_chain_without_query_and_gallery_is_refused_before_it_starts(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = [str(number) for number in range(20)]
    crops = write_person_folder(tmp_path / "crops", people=people, cameras=(1,), camera_in="none")
    words = ["pipeline", "--data", str(crops), "--identities", "null"]
    assert command(*words) == 2
    said = capsys.readouterr()
    assert "transfer" in said.out and f"Stage 'transfer' cannot test on {crops}." in said.err
    assert "no image in the query split" in said.err and "(40 train)" in said.err
    assert not (tmp_path / "runs").exists(), "nothing was started"
    (until,) = re.findall(r"--until \w+", said.err)
    assert command(*words, "--dry-run", *until.split()) == 0
    shutil.rmtree(crops)
    write_person_folder(crops, people=people, test_people=["a", "b"], cameras=(1, 2), camera_in="none")
    assert command(*words, "--dry-run") == 0, capsys.readouterr().err


@pytest.mark.parametrize("stage", read_chain(["chains/tour", "chains/market1501"], {}).stages, ids=lambda s: s.name)
def test_the_chain_for_photographs_consists_of_commands_the_parser_takes(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFREID_ROOT", "elsewhere")
    assert main([*stage.words, "--print_config"]) == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    if stage.words[0] == "select":
        assert printed["out"] == "elsewhere/select"
    else:
        assert printed["trainer"]["default_root_dir"] == f"elsewhere/{stage.name}"
        assert stage.name == "caption" or printed["data"]["init_args"]["image_size"] == [256, 128]
        # `predict` stages refuse mixed precision once they run: their networks have a type of their own.
        assert stage.words[0] != "predict" or printed["trainer"]["precision"] is None


@pytest.mark.parametrize("stage", ["personalize", "generate"])
def test_the_chain_at_twice_the_size_stores_what_the_others_read(
    stage: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    chain = read_chain(["chains/tour", "chains/market1501", "chains/sd15_512"], {})
    words = next(each.words for each in chain.stages if each.name == stage)
    assert command(*words, "--print_config") == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["init_args"]["image_size"] == [512, 256]
    if stage == "generate":
        writers = [each["init_args"].get("stored_size") for each in printed["trainer"]["callbacks"]]
        assert writers == [None, [256, 128], None]


class Tour:
    """A finished chain: where it lies, and what it was made from."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root = root
        self.data = data
        self.subset = Subset(str(data), identities=5, seed=0).manifest()
        train = self.subset.filter(self.subset.numpy("split") == "train")
        self.people = set(train.identities()[1])
        self.made = {
            name: Manifest.read(root / place)
            for name, place in {
                "caption": "caption", "generate": "generate", "score_generated": "score_generated",
                "kept": "select/diff_person", "rejected": "select/rejected",
            }.items()
        }  # fmt: skip

    def training_data(self, place: str) -> dict[str, Any]:
        """What a training noted of its data."""
        note = json.loads((self.root / place).read_text(encoding="utf-8"))
        return dict(note.get("training_data") or note["training"]["training_data"])


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    """Run the chain, each stage in this process."""
    folder = tmp_path_factory.mktemp("tour")
    data = write_market1501(folder / "data", train_ids=range(2, 14), cameras=(1, 2), images_per_camera=2)
    words = Path(diffreid_lightning.diffusion.__file__).parent / "tiny_sd" / "tokenizer"
    model = write_checkpoint(folder / "model", "sd1", words)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(folder)
        run_stages_here(patch)
        asked = ["--root", str(folder / "out"), "--data", str(data), "--model", str(model)]
        assert main([*TINY_CHAIN, *asked, "--jobs", "1"]) == 0
        assert re.search(r"Diff-Person +│ +[\d.]+ │ +[\d.]+ │", said.getvalue())
        assert {path.name for path in folder.iterdir()} == {"data", "model", "out"}, "nothing lies outside the root"
        yield Tour(folder / "out", data)


def test_every_stage_left_a_record(tour: Tour) -> None:
    for name in STAGES:
        assert Record.read(tour.root / ".stages" / f"{name}.json") is not None


def test_nobody_outside_the_subset_is_in_any_manifest(tour: Tour) -> None:
    assert len(tour.people) == 5 < len(open_dataset(tour.subset.root).manifest().identities()[1])
    assert set(tour.made["caption"].identities()[1]) == tour.people
    for name, manifest in tour.made.items():
        assert set(manifest.identities()[1]) <= tour.people, name
        assert set(manifest.numpy("split")) == {"train" if name == "caption" else "generated"}, name
        assert set(manifest.numpy("role")) == {"identity"}, name
    assert len(tour.made["kept"]) + len(tour.made["rejected"]) == len(tour.made["generate"])


def test_parents_lead_back_to_the_subset_and_nowhere_else(tour: Tour) -> None:
    by_hash = {manifest.content_hash: name for name, manifest in tour.made.items()}
    expected = {
        "kept": ["score_generated", "generate", "caption"],
        "rejected": ["score_generated", "generate", "caption"],
    }
    for name, line in expected.items():
        found, manifest = [], tour.made[name]
        while manifest.parents != (tour.subset.content_hash,):
            parent, *networks = manifest.parents
            assert networks == ([tour.made["caption"].content_hash] if found == ["score_generated"] else []), (
                "what the scorer was trained on; the generator was trained on what is the parent itself"
            )
            found.append(by_hash[parent])
            manifest = tour.made[by_hash[parent]]
        assert found == line


def test_every_training_names_the_manifest_it_saw(tour: Tour) -> None:
    captioned, kept = (tour.made[name].content_hash for name in ("caption", "kept"))
    assert tour.training_data("personalize/fit-001/personalized/provenance.json")["manifest"] == captioned
    for place, parent in {
        "score/fit-001/scorer/scorer.json": captioned,
        "pretrain/fit-001/backbone/provenance.json": kept,
        "transfer/fit-001/backbone/provenance.json": captioned,
    }.items():
        (source,) = tour.training_data(place)["manifests"]
        assert source["manifest"] == parent, place
    scorer = json.loads((tour.root / "score/fit-001/scorer/scorer.json").read_text(encoding="utf-8"))
    assert {tuple(key) for key in scorer["identities"]} == tour.people


def wait_for_words(*logs: Path) -> None:
    """Wait until each log has something in it that it had not when this was called."""
    before = [log.stat().st_size if log.exists() else 0 for log in logs]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if all(log.exists() and log.stat().st_size > size for log, size in zip(logs, before, strict=True)):
            return
        time.sleep(0.02)
    pytest.fail(f"nothing was said in {logs}")


@pytest.mark.slow
def test_two_stages_at_once_are_ended_and_killed_and_make_what_one_after_another_does(
    tour: Tour, tmp_path: Path
) -> None:
    asked = ["--root", str(tmp_path / "out"), "--data", str(tour.data), "--model", str(tour.data.parent / "model")]
    words = [*TINY_CHAIN, *asked, "--jobs", "2"]
    logs = [tmp_path / "out/.stages" / f"{name}.log" for name in ("personalize", "score")]

    process = start(words, tmp_path)
    wait_for_words(*logs)
    process.send_signal(signal.SIGTERM, to_group=True)
    said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Interrupted." in said and "Traceback" not in said
    assert "caption: started (log: " in said and re.search(r"^caption: \d+ (s|min)", said, re.MULTILINE)
    for log in logs:
        assert "Interrupted." in log.read_text(encoding="utf-8"), "a stage puts its things in order"

    process = start(words, tmp_path)
    wait_for_words(*logs)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # until none that it started has its output

    process = start([*words, "--until", "score_generated"], tmp_path)
    said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    later = ("select", "pretrain", "transfer", "scratch")
    one, two = (
        {name: each for name, each in contents(root).items() if not name.startswith(later)}
        for root in (tour.root, tmp_path / "out")
    )
    assert len(one) > 20 and not differences(one, two)
