"""Generation by the command line: the folder it leaves, runs that are killed or shared, and what users get wrong."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffreid_lightning.diffusion.checkpoints import weights_hash
from diffreid_lightning.diffusion.denoising_loop import Decoded
from diffreid_lightning.generation import module, writer
from diffreid_lightning.generation.module import GenerationModule
from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.command_line import commands_in, start
from tests.fixtures.diffusion import SIZE
from tests.fixtures.drawing import write_personalized_model, write_vocabulary

Command = Callable[..., int]
MADE = Path("runs/tour/generate")


def words_in(folder: Path, model: Path, people: Path) -> list[str]:
    """The shipped config on four people and a model of a few thousand weights: 12 images in 4 batches."""
    return [
        "predict", "--config=stages/generate", f"--data.source={people}", f"--model.model={model}",
        f"--data.vocabulary={write_vocabulary(folder / 'words.yaml')}", f"--data.image_size=[{SIZE[0]},{SIZE[1]}]",
        "--data.identities=null", "--data.images_per_identity=3", "--data.batch_size=3", "--model.steps=2",
        "--model.template={identity} {description}, {circumstances}", "--trainer.accelerator=cpu",
    ]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, checkpoints: dict[str, Path], people: Path) -> list[str]:
    return words_in(tmp_path, checkpoints["sd1"], people)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], people: Path) -> Path:
    """What the command left; no test changes it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        assert commands_in(folder, patch)(*words_in(folder, checkpoints["sd1"], people)) == 0
    return folder / MADE


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a stage leaves, by its name, but the record of the run, which has an id of its own."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    kept = {name: path for name, path in paths.items() if not name.parts[0].startswith("predict-")}
    return {name.as_posix(): path.read_bytes() for name, path in kept.items()}


def images(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in folder.rglob("*.jpg")}


def test_it_leaves_images_in_markets_naming_a_manifest_and_a_contact_sheet(
    command: Command,
    words: list[str],
    people: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    model = shutil.copytree(checkpoints["sd1"], tmp_path / "model")
    (model / "provenance.json").write_text(json.dumps({"training_data": {"manifest": "a" * 64}}))
    assert command(*words, f"--model.model={model}") == 0
    real, made = Manifest.read(people), Manifest.read(MADE)
    assert len(made) == 12
    assert made.parents == (real.content_hash, "a" * 64), "what was read, and what the model was trained on"
    assert not (MADE / ".parts").exists()
    rows = made.table.to_pylist()
    assert [(row["pid"], row["camid"]) for row in rows] == [(pid, 2) for _ in range(3) for pid in (1, 2, 3, 4)]
    assert rows[5]["file_name"] == "images/toy/0002/0002_c2s1_000001_00.jpg"
    for row in rows:
        assert re.fullmatch(r"\d{4}_c2s1_\d{6}_00\.jpg", Path(row["file_name"]).name)
        assert made.images.image(row["file_name"]).size == (SIZE[1], SIZE[0])
        assert (row["split"], row["role"], row["source_pid"]) == ("generated", "identity", row["pid"])
        assert row["prompt"].count(" AND ") == 1, "the identity's prompt and the attributes'"
        asked = json.loads(row["attributes"])
        assert set(asked) <= {"view", "light"}
        assert all(phrase in row["prompt"].partition(" AND ")[2] for phrase in asked.values())
    assert rows[0]["prompt"].startswith("a woman in a red coat AND a person, ")
    assert rows[0]["caption"].startswith("a woman in a red coat, ")
    assert len({row["seed"] for row in rows}) == 12
    assert len({row["generator"] for row in rows}) == 1
    # Three images of each take two views in turn.
    for pid in (1, 2, 3, 4):
        views = [json.loads(row["attributes"])["view"] for row in rows if row["pid"] == pid]
        assert sorted(map(views.count, set(views))) == [1, 2]
    assert Image.open(MADE / "contact_sheet.png").width > 6 * SIZE[1]
    for told in ("12 images in", "images/s", "5 evaluations of the denoiser per image", "Contact sheet"):
        assert told in caplog.text


def test_images_are_stored_smaller_than_they_are_decoded_and_never_larger(
    command: Command, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(folder: str, size: tuple[int, int]) -> int:
        arguments = {"folder": folder, "quality": 100, **({"stored_size": size, "threads": 0} if size != SIZE else {})}
        writer = {"class_path": "GeneratedImagesWriter", "init_args": arguments}
        return command(*words, f"--trainer.callbacks={json.dumps([writer])}")

    half = (SIZE[0] // 2, SIZE[1] // 2)
    assert generate("whole", SIZE) == generate("half", half) == 0
    whole, stored = images(Path("whole")), images(Path("half"))
    assert Manifest.read("whole").table.equals(Manifest.read("half").table) and len(whole) == 12
    for name, pixels in whole.items():
        assert stored[name].shape == (*half, 3)
        gray, small = pixels.mean(axis=2), stored[name].mean(axis=2)  # JPEG halves the resolution of color
        averaged = gray.reshape(half[0], 2, half[1], 2).mean(axis=(1, 3))
        taken = np.abs(small - gray[::2, ::2]).mean()
        assert np.abs(small - averaged).mean() < 0.5 * taken, "each pixel is made of all that it covers"
    assert generate("half", (half[0], half[1] - 1)) == 2
    assert "stored_size" in capsys.readouterr().err, "a folder has files of one size"
    assert generate("larger", (SIZE[0], SIZE[1] + 1)) == 2
    assert f"at most data.image_size, {list(SIZE)}" in capsys.readouterr().err and not Path("larger").exists()


def test_a_stage_that_is_done_is_left_alone(command: Command, words: list[str], made: Path) -> None:
    shutil.copytree(made, MADE)
    assert command(*words) == 0
    assert files(MADE) == files(made)


def test_an_image_does_not_depend_on_the_others_of_the_run(
    command: Command, words: list[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["file_name"]: row for row in Manifest.read(made).table.to_pylist()}
    others = {
        "fewer": ["--data.identities=[toy-0003,toy-0001]"],
        "more": ["--data.images_per_identity=4"],
        "batches": ["--data.batch_size=5"],
    }
    for name, change in others.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert command(*words, *change) == 0
        again = {row["file_name"]: row for row in Manifest.read(MADE).table.to_pylist()}
        common = rows.keys() & again.keys()
        assert len(common) == (6 if name == "fewer" else 12)
        assert all(rows[each] == again[each] for each in common), "prompt, attributes, seed"
        first, second = images(made), images(Path(MADE))
        for each in common:
            key = Path(each).name
            # Another batch rounds elsewhere; JPEG turns one step in a pixel into a few.
            assert np.abs(first[key] - second[key]).max() <= 6


@pytest.mark.slow
def test_kill_and_run_again_ends_in_the_same_files(
    command: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    words = [*words, "--data.batch_size=2", "--data.images_per_identity=6", "--model.steps=10"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    monkeypatch.chdir(whole)
    assert command(*words) == 0

    process = start(words, cut)
    parts = cut / MADE / ".parts"
    deadline = time.monotonic() + 200
    while len(list(parts.glob("[0-9]*.parquet"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.parquet")}
    assert 3 <= len(done) < 12, "the kill came too early or too late to test anything"
    written = {path: path.stat().st_mtime_ns for path in (cut / MADE).rglob("0001_*_000000_00.jpg")}
    assert written

    monkeypatch.chdir(cut)
    caplog.clear()
    with caplog.at_level("INFO"):
        assert command(*words) == 0
    assert f"{len(done)} of 12 batches were done before" in caplog.text
    assert files(cut / MADE) == files(whole / MADE)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "nothing twice"


@pytest.mark.slow
def test_two_processes_leave_what_one_does(words: list[str], made: Path, tmp_path: Path) -> None:
    process = start([*words, "--trainer.devices=2", "--trainer.strategy=auto"], tmp_path, processes=2)
    output = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert files(tmp_path / MADE) == files(made)


def test_a_full_disk_loses_nothing(
    command: Command, words: list[str], made: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save, left = writer._save, [7]

    def until_full(path: Path, *rest: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, *rest)

    monkeypatch.setattr(writer, "_save", until_full)
    capsys.readouterr()
    assert command(*words) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error and "No space left" in error and "Traceback" not in error
    kept = sorted(path.name for path in (MADE / ".parts").glob("[0-9]*.parquet"))
    assert kept == ["00000000.parquet", "00000001.parquet"]
    monkeypatch.setattr(writer, "_save", save)
    assert command(*words) == 0
    assert files(MADE) == files(made)


def test_a_picture_that_is_not_finite_is_rejected_and_ends_no_run(
    command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode, broken = module.decode_latents, {1}

    def decoded(*arguments: Any) -> Decoded:
        drawn = decode(*arguments)
        finite = torch.tensor([place not in broken for place in range(len(drawn.finite))])
        return drawn._replace(finite=drawn.finite & finite)

    monkeypatch.setattr(module, "decode_latents", decoded)
    assert command(*words) == 0
    made, rejected = Manifest.read(MADE), Manifest.read(MADE / "rejected.parquet")
    assert (len(made), len(rejected)) == (8, 4) and "reason" not in made.columns
    assert set(rejected.numpy("reason")) == {"decoded to values that are not finite"}
    assert not any(rejected.images.exists(name) for name in rejected.numpy("file_name"))
    assert all(made.images.exists(name) for name in made.numpy("file_name"))
    assert (MADE / "contact_sheet.png").is_file()
    broken |= {0, 2}
    shutil.rmtree(MADE)
    assert command(*words) == 1
    assert "3 of 3 pictures were decoded" in capsys.readouterr().err, "a batch without any ends the run at once"
    assert command(*words, "--data.batch_size=1") == 1
    assert "12 of 12 pictures were decoded" in capsys.readouterr().err


def test_a_personalized_model_names_its_people(
    command: Command,
    words: list[str],
    tmp_path: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_personalized_model(tmp_path / "run" / "personalized", checkpoints["sd1"])
    assert command(*words, f"--model.model={folder.parent}") == 2
    assert f"did you mean {folder}?" in " ".join(capsys.readouterr().err.split())
    assert command(*words, f"--model.model={folder}", "--model.template=a photo of {description}") == 2
    assert "does not name the identity" in capsys.readouterr().err
    assert command(*words, f"--model.model={folder}", "--model.diversity=ConceptDifference") == 0
    first = Manifest.read(MADE).table.to_pylist()[0]
    asked = ", ".join(filter(None, json.loads(first["attributes"]).values()))
    described = first["prompt"].split(" AND ")[2]
    assert first["prompt"].split(" AND ")[:2] == [f"<toy-0001> {described}", f"{described}, {asked}"]
    shutil.rmtree(tmp_path / MADE)
    assert command(*words, f"--model.model={folder}", "--model.diversity=WordsOnly") == 0
    rows = Manifest.read(MADE).table.to_pylist()
    assert rows[0]["prompt"].startswith("<toy-0001> a woman in a red coat, ")
    assert rows[3]["prompt"].startswith("<toy-0004> a man in 4, "), "described by the model, not by the manifest"


def test_a_whole_model_may_have_a_personalized_one_in_its_folder(
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    whole = shutil.copytree(checkpoints["sd1"], tmp_path / "whole")
    write_personalized_model(whole / "personalized", checkpoints["sd1"])
    assert GenerationModule(str(whole), image_size=SIZE, steps=2).generator == weights_hash(checkpoints["sd1"])


def test_images_can_start_from_real_ones(command: Command, words: list[str], people: Path) -> None:
    assert command(*words, "--model.diversity=SDEdit", "--data.references=true") == 0
    made, real = Manifest.read(MADE), Manifest.read(people)
    pid_of = dict(zip(real.table["file_name"].to_pylist(), real.table["pid"].to_pylist(), strict=True))
    dealt = [(row["pid"], json.loads(row["attributes"])["reference"]) for row in made.table.to_pylist()]
    assert all(pid_of[reference] == pid for pid, reference in dealt)
    assert len(set(dealt)) == 12, "four images each, three dealt"


def test_sources_whose_images_would_lie_in_one_folder_are_refused(
    command: Command,
    words: list[str],
    people: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = Manifest.read(people)
    sources = np.where(manifest.numpy("pid") % 2, "my data", "my-data").tolist()
    two = manifest.with_columns({"source": sources}).write(tmp_path / "two.parquet")
    assert command(*words, f"--data.source={two}") == 2
    error = capsys.readouterr().err
    assert "'my data' (train) and 'my-data' (train) in images/my-data" in error
    assert not (tmp_path / MADE).exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--model.model=nowhere"], ["nowhere", "model_index.json"]),
        (["--data.vocabulary=rendred"], ["did you mean 'rendered'"]),
        (["--data.identities=[toy-0009]"], ["no image of <toy-0009>", "did you mean"]),
        (["--data.identities=[toy-0002,toy-test-0005]"], ["no image of <toy-test-0005>", "other images only"]),
        (["--data.identities=5"], ["from 1 to 4", "4 identities"]),
        (["--data.splits=[val]"], ["no identity to generate", "train"]),
        (["--model.diversity=SDEdit"], ["data.references"]),
        (["--model.diversity=ComposedGuidnce"], ["did you mean 'ComposedGuidance'"]),
        (["--model.template={identity} " + "a very long template " * 4 + "{description}"], ["too long", "24 tokens"]),
        (["--trainer.precision=bf16-mixed"], ["trainer.precision", "model.dtype"]),
    ],
)
def test_mistakes_are_named_and_cost_nothing(
    command: Command, words: list[str], capsys: pytest.CaptureFixture[str], change: list[str], told: list[str]
) -> None:
    assert command(*words, *change) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for text in told:
        assert text in error
    # The folder is still free for the same command without the mistake.
    assert not list(Path.cwd().rglob("*.jpg"))


def test_a_refused_run_can_be_mended(command: Command, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words, "--model.template=" + "a very long template " * 5 + "{description}") == 2
    assert command(*words) == 0
    assert command(*words, "--model.guidance=2") == 2
    assert "guidance: 4.0, now 2.0" in capsys.readouterr().err


def test_identities_a_model_does_not_know_are_refused(
    command: Command, words: list[str], tmp_path: Path, checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = write_personalized_model(tmp_path / "model", checkpoints["sd1"])
    assert command(*words, f"--model.model={folder}", "--data.splits=[query]") == 2
    assert "not personalized for 2 of 2 identities" in capsys.readouterr().err


def test_a_plain_model_needs_descriptions(
    command: Command,
    words: list[str],
    tmp_path: Path,
    people: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Manifest.read(people)
    Manifest(real.table.drop_columns(["description", "circumstances"]), real.root).write(tmp_path / "plain.parquet")
    assert command(*words, f"--data.source={tmp_path / 'plain.parquet'}") == 2
    error = capsys.readouterr().err
    assert "'description'" in error and "stages/caption" in error
