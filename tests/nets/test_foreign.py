"""Other projects' checkpoints, written here as those projects wrap theirs, through the real command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffreid_lightning.cli import main
from diffreid_lightning.nets import FORMS, Backbone, load_initial_weights

NAME = "test_resnet"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(4)
    return timm.create_model(NAME, num_classes=7).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def moco(state: State) -> dict[str, Any]:
    """MoCo's own checkpoint: query and key encoder in a DDP wrapping, a queue, the optimiser's state."""
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    both = under("module.encoder_q.", state) | under("module.encoder_k.", other)
    return {"epoch": 200, "arch": NAME, "state_dict": both | {"module.queue": torch.rand(4, 4)}, "optimizer": {}}


def fastreid(state: State) -> dict[str, Any]:
    pixels = {
        "pixel_mean": torch.tensor([120.0, 110.0, 100.0]).view(1, 3, 1, 1),
        "pixel_std": torch.full((1, 3, 1, 1), 51.0),
    }
    heads = {"heads.bottleneck.0.weight": torch.ones(8), "heads.classifier.weight": torch.ones(3, 8)}
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return {"model": under("backbone.", body) | heads | pixels, "iteration": 3}


WRAPPED: dict[str, tuple[str, Callable[[State], dict[str, Any]]]] = {
    "published": ("luperson", lambda state: {n: t for n, t in state.items() if not n.startswith("fc.")}),
    "moco": ("luperson", moco),
    "nl": ("luperson-nl", moco),
    "torchreid": ("torchreid", lambda state: {"state_dict": under("module.", state), "rank1": 0.9, "epoch": 60}),
    "fastreid": ("fastreid", fastreid),
    "cion": (
        "cion",
        lambda state: {
            "student": under("module.backbone.", {n: t * 0 for n, t in state.items()}),
            "teacher": under("backbone.", state) | {"head.last_layer.weight": torch.ones(4, 4)},
        },
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_weights_arrive(kind: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form, wrap = WRAPPED[kind]
    torch.save(wrap(state), tmp_path / "theirs.pth")
    out = tmp_path / "ours"
    assert main(["convert", str(tmp_path / "theirs.pth"), "--form", form, "--backbone", NAME, "--out", str(out)]) == 0

    stock = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).state_dict()
    assert set(stock) == {name for name in state if not name.startswith("fc.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in stock.items())

    mean = (120 / 255, 110 / 255, 100 / 255) if kind == "fastreid" else FORMS[form].traits.mean
    backbone = Backbone(NAME)
    load_initial_weights(backbone, str(out))
    assert backbone.normalization[0] == pytest.approx(mean, abs=1e-6)
    assert "missing" not in capsys.readouterr().out
    note = json.loads((out / "provenance.json").read_text(encoding="utf-8"))["training"]
    assert note["form"] == form and note["converted_from"] == "theirs.pth"
    content = wrap(state)
    held = next((content[key] for key in ("teacher", "state_dict", "model") if key in content), content)
    assert len(note["dropped_head"]) + len(stock) == len(held) and not note["unexpected"], "each is accounted for"


def test_left_over_tensors_are_reported(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = dict(state)
    first = next(iter(theirs))
    theirs["extra.weight"] = theirs.pop(first)
    torch.save(theirs, tmp_path / "theirs.pth")
    words = ["convert", str(tmp_path / "theirs.pth"), "--form", "torchreid", "--backbone", NAME]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert first in said and "extra.weight" in said and not (tmp_path / "a").exists()
    assert main([*words, "--out", str(tmp_path / "b"), "--allow_partial"]) == 0
    said = capsys.readouterr().out
    assert first in said and "extra.weight" in said
    note = json.loads((tmp_path / "b" / "provenance.json").read_text(encoding="utf-8"))["training"]
    assert note["missing"] == [first] and note["unexpected"] == ["extra.weight"]


def test_safetensors_are_read_too(state: State, tmp_path: Path) -> None:
    save_file(under("backbone.", state), tmp_path / "theirs.safetensors")
    words = ["convert", str(tmp_path / "theirs.safetensors"), "--form", "cion", "--backbone", NAME]
    assert main([*words, "--out", str(tmp_path / "ours")]) == 0
    assert torch.equal(load_file(tmp_path / "ours" / "model.safetensors")["conv1.0.weight"], state["conv1.0.weight"])


class Payload:
    """What a hostile checkpoint would hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        ({"state_dict": {"a": Payload()}}, [], "plain tensors"),
        ({"state_dict": {"a": 1}}, [], "holds no tensors"),
        ([1, 2], [], "no state dict"),
        (b"PK nonsense", [], "cannot be read"),
        (None, [], "There is no checkpoint"),
        ({"a": torch.ones(1)}, ["--form", "lupersonn"], "'luperson'"),
        ({"a": torch.ones(1)}, ["--backbone", "test_resnt"], "test_resnet"),
        ({"a": torch.ones(1)}, ["--last_stride", "3"], "python -m diffreid_lightning convert"),
        ({"a": torch.ones(1)}, [], "do not fit"),
    ],
)
def test_what_cannot_be_converted(
    content: Any,
    words: list[str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("theirs.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "theirs.pth")
    given = ["convert", "theirs.pth", "--form", "torchreid", "--backbone", NAME, "--out", "ours", *words]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert hint in said and "Traceback" not in said
    assert not Path("executed").exists() and not Path("ours").exists()
