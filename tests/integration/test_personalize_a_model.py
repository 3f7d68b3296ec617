"""Personalization by the command line, as shipped, on a random checkpoint and four people."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.checkpoint import load_personalized
from tests.fixtures.continued_runs import train_whole_and_continued
from tests.fixtures.diffusion import SIZE
from tests.fixtures.original_layout import write_single_file

Command = Callable[..., int]
RUN = Path("runs/test/fit-001")


@pytest.fixture
def words(tmp_path: Path, checkpoints: dict[str, Path], people: Path) -> list[str]:
    """The shipped config, with everything small."""
    shipped = yaml.safe_load((Path(__file__).parents[2] / "configs/stages/personalize.yaml").read_text())
    shipped["trainer"] |= {
        "default_root_dir": "runs/test", "max_epochs": 2, "precision": "32", "enable_progress_bar": False,
        "accelerator": "cpu", "log_every_n_steps": 1,
    }  # fmt: skip
    for callback in shipped["trainer"]["callbacks"]:
        if callback["class_path"] == "IdentitySheets":
            callback["init_args"] = {"identities": 2, "images": 2, "steps": 2}
    shipped["data"]["init_args"] |= {
        "source": str(people),
        "identities": None,
        "image_size": list(SIZE),
        "batch_size": 4,
    }
    shipped["data"]["init_args"]["prior"]["init_args"] |= {"images_per_identity": 2, "steps": 2}
    shipped["model"]["init_args"] |= {"model": str(checkpoints["sd1"]), "warmup_steps": 1}
    shipped["model"]["init_args"]["fine_tuning"]["init_args"] |= {"rank": 2}
    shipped["model"]["init_args"]["tokens"]["init_args"] |= {"word": "man"}
    file = tmp_path / "personalize.yaml"
    file.write_text(yaml.safe_dump(shipped))
    return ["fit", "--config", str(file)]


def test_people_are_learnt_drawn_and_saved(command: Command, words: list[str], tmp_path: Path) -> None:
    assert command(*words) == 0
    model = load_personalized(tmp_path / RUN / "personalized")
    assert [identity.key[2] for identity in model.identities] == [1, 2, 3, 4]
    sheet = Image.open(tmp_path / RUN / "samples/epoch-0002.png")
    assert sheet.width > 4 * SIZE[1]
    checkpoint = torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert all(name.startswith(("tokens.", "trained.")) for name in names)  # the base model is on the disk already


def test_a_continued_run_comes_to_the_same_weights(
    command: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = train_whole_and_continued(command, words, RUN / "personalized", tmp_path, monkeypatch)
    for name in ("tokens.safetensors", "lora/pytorch_lora_weights.safetensors"):
        one, two = (load_file(folder / RUN / "personalized" / name) for folder in (whole, cut))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (["--model.model=nowhere"], "There is no diffusion model at nowhere"),
        (["--data.identities=[toy-0009]"], "There is no image of <toy-0009>"),
        (["--data.template=" + "a photo " * 12 + "of {identity}"], "too long for the text encoder"),
        (["--model.tokens.word="], "no token for the word"),
        (["--data.image_size=[36,16]"], "height and width that 8 divides"),
        (["--model.snr_gamma=0"], "model.snr_gamma must be greater than 0"),
        (["--model.prior_weight=-1"], "model.prior_weight must be at least 0"),
        (
            ["--model.schedule=cosine", "--trainer.max_epochs=-1", "--trainer.max_time=00:00:10:00"],
            "constant_with_warmup",
        ),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    command: Command, words: list[str], capsys: pytest.CaptureFixture[str], override: list[str], told: str
) -> None:
    assert command(*words, *override) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors


def test_another_layout_or_other_data_than_the_models_are_refused(
    command: Command,
    words: list[str],
    tmp_path: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flux = shutil.copytree(checkpoints["sd1"], tmp_path / "flux")
    index = flux / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    assert command(*words, f"--model.model={flux}") == 2
    assert "FluxPipeline" in capsys.readouterr().err
    assert command(*words, f"--data.model={checkpoints['sd2']}") == 2
    assert "different base models" in capsys.readouterr().err
    assert command(*words, "--data=ReIDDataModule") == 2


def test_a_single_file_is_personalized_and_generates(
    command: Command,
    words: list[str],
    tmp_path: Path,
    checkpoints: dict[str, Path],
    people: Path,
) -> None:
    file = write_single_file(load_pipeline(checkpoints["sd1"]), tmp_path / "one.safetensors")
    shutil.copytree(checkpoints["sd1"], tmp_path / "one", ignore=shutil.ignore_patterns("*.safetensors"))
    callbacks = "--trainer.callbacks=[{class_path: PersonalizationExport}]"
    assert command(*words, f"--model.model={file}", "--trainer.max_epochs=1", callbacks) == 0
    drawing = [
        "predict", "--config=stages/generate", f"--data.source={people}", f"--model.model={RUN / 'personalized'}",
        f"--data.image_size=[{SIZE[0]},{SIZE[1]}]", "--data.identities=null", "--data.images_per_identity=1",
        "--model.steps=1", "--model.diversity=NoDiversity", "--data.batch_size=4", "--trainer.accelerator=cpu",
        "--trainer.default_root_dir=runs/drawn",
    ]  # fmt: skip
    assert command(*drawing) == 0
    assert len(Manifest.read(tmp_path / "runs/drawn")) == 4


def test_a_tokenizer_that_is_missing_is_named_before_anything_is_done(
    command: Command,
    words: list[str],
    tmp_path: Path,
    checkpoints: dict[str, Path],
    people: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(checkpoints["sd1"], tmp_path / "notok", ignore=shutil.ignore_patterns("tokenizer"))
    generate = ["predict", "--config=stages/generate", f"--data.source={people}"]
    for stage in (words, generate):
        assert command(*stage, f"--model.model={model}", "--trainer.default_root_dir=runs/none") == 2
        errors = capsys.readouterr().err
        assert f"{model}/tokenizer" in errors and "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


def test_a_source_without_training_images_is_refused(
    command: Command,
    words: list[str],
    tmp_path: Path,
    people: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = Manifest.read(people)
    manifest.filter(manifest.numpy("split") != "train").write(tmp_path / "test_only.parquet")
    assert command(*words, f"--data.source={tmp_path / 'test_only.parquet'}") == 2
    assert "no image of an identity in the split 'train'" in capsys.readouterr().err
