"""The state of an installation: what is whole, what is broken, and that no key is printed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffreid_lightning.captioning import reader_captioner
from diffreid_lightning.cli import main
from diffreid_lightning.cli.commands import doctor
from diffreid_lightning.datasets import MiniPerson
from diffreid_lightning.diffusion.checkpoints import locate_pipeline


def test_a_sound_installation_prints_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123secret")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ok      W&B: online, a key is set" in said and "secret" not in said
    assert "ok      cpu: fp32" in said and "ok      miniperson:campus: 2,244 images" in said
    assert "broken" not in said and said.rstrip().endswith("pipeline")


def test_damaged_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "campus.zip"
    content = bytearray(MiniPerson("campus").root.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    model = shutil.copytree(locate_pipeline("tiny-sd"), tmp_path / "tiny-sd")
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MiniPerson, "root", archive, raising=False)
    monkeypatch.setattr(MiniPerson, "__init__", lambda self, domain, strict=False: None)
    monkeypatch.setattr(MiniPerson, "manifest", lambda self: range(7))
    monkeypatch.setattr(reader_captioner, "reader_folder", lambda name: tmp_path / "tiny-reader")
    assert [mark for mark, *_ in doctor._embedded()] == [doctor.BROKEN] * 4
    (model / "unet/diffusion_pytorch_model.safetensors").unlink()
    assert [mark for mark, *_ in doctor._embedded()][-2] == doctor.BROKEN


def test_a_missing_requirement_breaks_the_chain_and_a_missing_extra_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch >= 99", "pytest", "nowhere; extra == 'odd'", "pytest; extra == 'even'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: declared)
    found = {name: mark for mark, name, _ in doctor._packages()}
    assert found == {"required packages": doctor.BROKEN, "extra odd": doctor.ABSENT, "extra even": doctor.OK}


def test_a_gpu_that_is_full_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H")
    monkeypatch.setattr("torch.cuda.mem_get_info", refuse)
    (_, full) = list(doctor._devices())[:2]
    assert full == (doctor.ABSENT, "cuda:0 (H)", "cannot be used: CUDA error: out of memory")
