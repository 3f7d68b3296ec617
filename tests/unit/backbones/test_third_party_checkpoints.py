"""Other projects' checkpoints, written here as those projects wrap theirs, through the real command."""

from __future__ import annotations

import argparse
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffreid_lightning.backbones import (
    FORMS,
    Backbone,
    BNNeck,
    fill_backbone,
    load_initial_weights,
    open_foreign,
    save_backbone,
)
from diffreid_lightning.cli import main
from diffreid_lightning.errors import UserError

NAME = "test_resnet"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(4)
    return timm.create_model(NAME, num_classes=7).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def moco(state: State) -> dict[str, Any]:
    """MoCo's own checkpoint: query and key encoder in a DDP wrapping, a queue, the optimizer's state."""
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    both = under("module.encoder_q.", state) | under("module.encoder_k.", other)
    return {"epoch": 200, "arch": NAME, "state_dict": both | {"module.queue": torch.rand(4, 4)}, "optimizer": {}}


def fastreid(state: State) -> dict[str, Any]:
    pixels = {
        "pixel_mean": torch.tensor([120.0, 110.0, 100.0]).view(1, 3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1),  # ImageNet's
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
    said = capsys.readouterr().out
    assert "missing" not in said
    assert kind != "fastreid" or "deviation (0.229, 0.224, 0.225)" in said
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
        (b"", [], "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", [], "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", [], "a web page"),
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


# What stands in the way is named, and what is printed to be done works when it is done.


def remedy_of(error: str) -> str:
    return error.rpartition("do this:")[2].strip()


def strong_baseline(state: State) -> State:
    rest = {"bottleneck.weight": torch.ones(96), "classifier.weight": torch.ones(7, 96)}
    return under("base.", {n: t for n, t in state.items() if not n.startswith("fc.")}) | rest


@pytest.mark.parametrize("form", ["luperson", "luperson-nl", "cion", "torchreid", "fastreid", "solider", "timm"])
@pytest.mark.parametrize("more", [[], ["--allow_partial"]], ids=["", "partial"])
def test_another_form_is_named_and_not_read(
    form: str, more: list[str], state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(strong_baseline(state), tmp_path / "theirs.pth")
    words = ["convert", str(tmp_path / "theirs.pth"), "--backbone", NAME, "--out", str(tmp_path / "ours"), *more]
    assert main([*words, "--form", form]) == 2
    remedy = remedy_of(capsys.readouterr().err)
    assert remedy == "use --form reid-strong-baseline"
    assert main([*words, *remedy.split()[1:]]) == 0


@pytest.mark.parametrize("container", ["state_dict", "model", None])
def test_python_objects_are_named_and_the_printed_command_leaves_them_out(
    container: str | None, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content: dict[str, Any] = {container: state} if container else dict(state)
    torch.save(content | {"args": argparse.Namespace(lr=1)}, tmp_path / "theirs.pth.tar")
    rest = ["--form", "torchreid", "--backbone", NAME, "--out", str(tmp_path / "ours")]
    assert main(["convert", str(tmp_path / "theirs.pth.tar"), *rest]) == 2
    said = capsys.readouterr().err
    assert "argparse.Namespace" in said and "\x1b" not in said
    code, plain = re.search(r'python -c "(.*)"; then convert (.*)', remedy_of(said)).groups()
    exec(code)
    assert main(["convert", plain, *rest]) == 0


def test_numbers_of_numpy_beside_the_weights_are_read(state: State, tmp_path: Path) -> None:
    """As torchreid saves them; under NumPy 1 their constructor had another module."""
    torch.save({"state_dict": state, "rank1": np.float64(0.9), "mAP": np.float32(0.8)}, tmp_path / "two.pth")
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        source = io.BytesIO()
        with zipfile.ZipFile(tmp_path / "two.pth") as read, zipfile.ZipFile(source, "w") as write:
            for item in read.namelist():
                content = read.read(item)
                if item.endswith("data.pkl"):
                    content = re.sub(rb"numpy\._?core\.multiarray", module, content)
                write.writestr(item, content)
        (tmp_path / "theirs.pth").write_bytes(source.getvalue())
        assert set(open_foreign(tmp_path / "theirs.pth", "torchreid").tensors) >= {"conv1.0.weight"}


@pytest.mark.parametrize(
    ("form", "names", "what"),
    [
        ("transreid", ["base.blocks.0.norm1.weight", "base.patch_embed.conv.0.weight"], "PASS"),
        ("transreid", ["base.blocks.0.norm1.weight", "base.part_token1"], "PASS"),
        ("transreid", ["base.blocks.0.norm1.weight", "base.sie_embed"], "SIE"),
        ("torchreid", ["conv1.conv.weight", "conv2.0.conv2a.0.conv1.weight"], "OSNet"),
        ("transreid", ["image_encoder.class_embedding"], "CLIP"),
        ("torchreid", ["base.part_token1"], "PASS"),
    ],
)
def test_networks_that_timm_cannot_build_are_named(form: str, names: list[str], what: str, tmp_path: Path) -> None:
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=what) as caught:
        open_foreign(tmp_path / "theirs.pth", form)
    assert "choose weights of a ResNet, ViT or Swin" in str(caught.value)


@pytest.mark.parametrize(("positions", "step"), [(162, 14), (211, 12)])
def test_overlapping_patches_are_named(positions: int, step: int, tmp_path: Path) -> None:
    state = {
        "base.patch_embed.proj.weight": torch.zeros(384, 3, 16, 16),
        "base.pos_embed": torch.zeros(1, positions + (step == 14), 384),
        "base.blocks.0.norm1.weight": torch.zeros(384),
    }
    torch.save(state, tmp_path / "theirs.pth")
    named = "a patch every 14 pixels of 256x128" if step == 14 else "vit_small_patch16_stride12_224"
    with pytest.raises(UserError, match=named):
        fill_backbone(Backbone("vit_small_patch16_224"), open_foreign(tmp_path / "theirs.pth", "transreid"))


def test_wrong_backbone_is_answered_with_the_right_one(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18", num_classes=0)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="which is resnet18 by its depth") as caught:
        fill_backbone(Backbone(NAME, image_size=(64, 32)), open_foreign(tmp_path / "theirs.pth", "torchreid"))
    assert "accept with" not in str(caught.value)
    right = Backbone("resnet18", image_size=(64, 32))
    assert not fill_backbone(right, open_foreign(tmp_path / "theirs.pth", "torchreid")).is_partial


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 7], ids=str)
def test_weights_that_no_network_computes_with_are_refused(broken: float, state: State, tmp_path: Path) -> None:
    theirs = dict(state)
    name = "layer1.0.conv1.weight"
    theirs[name] = theirs[name].int() if broken == 7 else theirs[name].clone().fill_(broken)
    torch.save(theirs, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"not finite|in int32") as caught:
        fill_backbone(Backbone(NAME, image_size=(64, 32)), open_foreign(tmp_path / "theirs.pth", "torchreid"))
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_taken(kind: torch.dtype, state: State, tmp_path: Path) -> None:
    torch.save({n: t.to(kind) if t.is_floating_point() else t for n, t in state.items()}, tmp_path / "theirs.pth")
    backbone = Backbone(NAME, image_size=(64, 32))
    assert not fill_backbone(backbone, open_foreign(tmp_path / "theirs.pth", "torchreid")).is_partial
    weight = backbone.model.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(weight, state["conv1.0.weight"].to(kind).float())


def test_own_checkpoint_is_a_form(tmp_path: Path) -> None:
    backbone, neck = Backbone(NAME, image_size=(64, 32), pooling="gem", last_stride=2, mean=(0.1, 0.2, 0.3)), BNNeck(96)
    torch.nn.init.uniform_(neck.norm.weight)
    weights = under("backbone.", backbone.state_dict()) | under("neck.", neck.state_dict())
    torch.save({"state_dict": weights | {"classifier.weight": torch.ones(7, 96)}}, tmp_path / "last.ckpt")
    again, fresh = Backbone(NAME, image_size=(64, 32)), BNNeck(96)
    report = fill_backbone(again, open_foreign(tmp_path / "last.ckpt", "diffreid"), neck=fresh)
    assert (report.last_stride, report.pooling, report.mean, report.with_neck) == (2, "gem", (0.1, 0.2, 0.3), True)
    assert torch.equal(fresh.norm.weight, neck.norm.weight)
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), backbone.eval()(images))


def test_pickled_weights_as_init_from_are_converted_by_the_printed_command(state: State, tmp_path: Path) -> None:
    torch.save(strong_baseline(state), tmp_path / "theirs.pth")
    backbone = Backbone(NAME, image_size=(64, 32))
    with pytest.raises(UserError, match="pickle") as caught:
        load_initial_weights(backbone, str(tmp_path / "theirs.pth"))
    words = re.search(r"diffreid_lightning (convert .*--out DIR)", str(caught.value)).group(1)
    words = words.replace("NAME", NAME).replace("DIR", str(tmp_path / "ours"))
    assert main(words.split()) == 0
    assert not load_initial_weights(backbone, str(tmp_path / "ours")).is_partial

    run = tmp_path / "fit-001"
    save_backbone(backbone, run / "backbone", provenance={})
    (run / "checkpoints").mkdir()
    torch.save({}, run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="the same run exported") as caught:
        load_initial_weights(backbone, str(run / "checkpoints" / "last.ckpt"))
    place = re.search(r"init_from (\S+)", str(caught.value)).group(1)
    assert not load_initial_weights(Backbone(NAME, image_size=(64, 32)), place).is_partial
