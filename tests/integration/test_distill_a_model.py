"""Distillation by the command line, as shipped, and generation by the student and by adapters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffreid_lightning.manifest.manifest import Manifest
from tests.fixtures.continued_runs import train_whole_and_continued
from tests.fixtures.diffusion import SIZE
from tests.fixtures.drawing import TEMPLATE, write_personalized_model

Command = Callable[..., int]
RUN = Path("runs/test/fit-001")
STUDENT = "student/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Path:
    return write_personalized_model(tmp_path_factory.mktemp("teacher"), checkpoints["sd1"])


@pytest.fixture
def words(tmp_path: Path, checkpoints: dict[str, Path], people: Path, teacher: Path) -> list[str]:
    """The shipped config, with everything small."""
    shipped = yaml.safe_load((Path(__file__).parents[2] / "configs/stages/distill.yaml").read_text())
    shipped["trainer"] |= {
        "default_root_dir": "runs/test", "max_epochs": 2, "enable_progress_bar": False, "accelerator": "cpu",
        "log_every_n_steps": 1,
    }  # fmt: skip
    shipped["data"]["init_args"] |= {
        "source": str(people), "image_size": list(SIZE), "batch_size": 4, "template": TEMPLATE,
        "cache_dir": str(tmp_path / "latents"),
    }  # fmt: skip
    shipped["model"]["init_args"] |= {"model": str(teacher), "base": str(checkpoints["sd1"]), "warmup_steps": 1}
    shipped["model"]["init_args"]["lora"]["init_args"] |= {"rank": 2}
    file = tmp_path / "distill.yaml"
    file.write_text(yaml.safe_dump(shipped))
    return ["fit", "--config", str(file)]


@pytest.fixture
def drawing(people: Path) -> list[str]:
    """The shipped configs on four people, an image each."""
    return [
        "predict", "--config=stages/generate", "--config=recipes/few_step", f"--data.source={people}",
        f"--data.image_size=[{SIZE[0]},{SIZE[1]}]", "--data.images_per_identity=1", "--data.batch_size=4",
        "--model.template={identity} {description}", "--trainer.accelerator=cpu", "--trainer.default_root_dir=drawn",
    ]  # fmt: skip


def test_a_student_is_distilled_and_draws(
    command: Command, words: list[str], drawing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 0
    folder = tmp_path / RUN / "distilled"
    checkpoint = torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)
    assert all(name.startswith(("trained.", "target.")) for name in checkpoint["state_dict"])
    drawing = [*drawing, f"--model.model={folder}"]
    for wrong, told in (
        (
            [word for word in drawing if "few_step" not in word],
            "DPMSolverMultistepScheduler, 25 evaluations in 12 steps",
        ),
        ([*drawing, "--model.guidance=4"], "LCMScheduler, 8 evaluations in 4 steps"),
        ([*drawing, "--model.diversity=ComposedGuidance"], "evaluations in 4 steps"),
        ([*drawing, "--model.diversity=GuidanceJitter"], "8 evaluations in 4 steps"),
        (
            [*drawing, "--model.scheduler_options.original_inference_steps=50"],
            "[999, 759, 499, 259], of original_inference_steps 50",
        ),
    ):
        assert command(*wrong) == 2
        errors = " ".join(capsys.readouterr().err.split())
        assert told in errors and "recipes/few_step" in errors and "Traceback" not in errors
    assert not (tmp_path / "drawn").exists()
    assert command(*drawing) == 0
    rows = Manifest.read(tmp_path / "drawn").table.to_pylist()
    assert [row["pid"] for row in rows] == [1, 2, 3, 4] and rows[0]["prompt"].startswith("<toy-0001> ")
    for other in (["--model.diversity=NoDiversity"], ["--model.diversity=SDEdit", "--data.references=true"]):
        shutil.rmtree(tmp_path / "drawn")
        assert command(*drawing, "--model.steps=8", *other) == 0
    assert command(*words, f"--model.model={folder}") == 2
    assert "is a few-step student already" in capsys.readouterr().err


def test_a_continued_run_comes_to_the_same_student(
    command: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = train_whole_and_continued(command, words, RUN / "distilled", tmp_path, monkeypatch)
    one, two = (load_file(folder / RUN / "distilled" / STUDENT) for folder in (whole, cut))
    assert one.keys() == two.keys() and any(bool(value.any()) for name, value in one.items() if "lora_B" in name)
    assert all(torch.equal(one[key], two[key]) for key in one)
    states = [torch.load(folder / RUN / "checkpoints/last.ckpt", weights_only=True) for folder in (whole, cut)]
    assert all(torch.equal(value, states[1]["state_dict"][name]) for name, value in states[0]["state_dict"].items())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (["--model.model={base}"], "There is no personalized model at"),
        (["--model.base={other}"], "trained from another base model"),
        (["--data.model={other}"], "latents are of another base model"),
        (["--model.model={fewer}"], "not personalized for 1 of 4 identities"),
        (["--model.guidance=[4.0,2.0]"], "the lowest scale, then the highest"),
        (["--model.guidance=[0.5,2.0]"], "model.guidance must be at least 1 and at most 100"),
        (["--model.solver_steps=1001"], "model.solver_steps must be"),
        (["--model.lora.text_encoder=true"], "adapts the denoiser alone"),
        (["--data.template=a photo of {identity}" + " and a photo" * 9], "too long for the text encoder"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    command: Command,
    words: list[str],
    tmp_path: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    override: list[str],
    told: str,
) -> None:
    places = {"base": checkpoints["sd1"], "other": checkpoints["sd2"]}
    if "{fewer}" in override[0]:
        places["fewer"] = write_personalized_model(tmp_path / "fewer", checkpoints["sd1"], people=3)
    for name, place in places.items():
        override = [word.replace(f"{{{name}}}", str(place)) for word in override]
    assert command(*words, *override) == 2
    errors = capsys.readouterr().err
    assert told in " ".join(errors.split()) and "Traceback" not in errors


def test_adapters_are_added_to_a_personalized_model(
    command: Command, drawing: list[str], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = [*drawing, f"--model.model={teacher}"]
    adapter = teacher / "lora"  # any LoRA of the base model
    assert command(*drawing, f"--model.adapters=[{adapter}]") == 0
    assert command(*drawing) == 2, "a folder is continued with the same adapters only"
    assert "generator" in capsys.readouterr().err
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    for wrong, told in (("nowhere", "There is no LoRA at nowhere"), ("damaged.safetensors", "cannot be used")):
        assert command(*drawing, f"--model.adapters=[{wrong}]") == 2
        errors = capsys.readouterr().err
        assert told in errors and "Traceback" not in errors
