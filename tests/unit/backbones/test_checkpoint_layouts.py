"""Each project's weights, converted, give the features of that project's own network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffreid_lightning.backbones import Backbone, load_initial_weights
from diffreid_lightning.cli import main
from tests.fixtures.reference_networks import RESNET_WIDTHS, ResNet, Solider, TransReID, shake

LUPERSON = tuple(tuple(v / 255 for v in s) for s in ((89.896, 79.200, 80.073), (63.872, 64.305, 63.839)))
LUPERSON_NL = ((0.3452, 0.3070, 0.3114), (0.2633, 0.2500, 0.2480))
State = dict[str, Tensor]
SEQUENCE = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def neck(width: int = 32) -> State:
    return {"bottleneck.weight": torch.ones(width), "classifier.weight": torch.ones(7, width)}


def sequential(state: State) -> State:
    parts = (name.split(".", 1) for name in state)
    return {f"module.base.{SEQUENCE[first]}.{rest}": state[f"{first}.{rest}"] for first, rest in parts}


RESNETS: dict[str, tuple[str, Callable[[], ResNet], Callable[[State], dict[str, Any]]]] = {
    "luperson": ("luperson", lambda: ResNet(LUPERSON, last_stride=2), dict),
    "luperson-nl": (
        "luperson-nl",
        lambda: ResNet(LUPERSON_NL, last_stride=2),
        lambda s: {"state_dict": under("module.encoder_q.", s) | {"module.encoder_q.fc1.weight": torch.ones(2, 32)}},
    ),
    "cion": (
        "cion",
        lambda: ResNet(last_stride=1),
        lambda s: {"teacher": under("module.backbone.", s) | {"module.head.mlp.0.weight": torch.ones(2, 2)}},
    ),
    "torchreid": ("torchreid", lambda: ResNet(last_stride=2), lambda s: {"state_dict": s | neck(), "epoch": 60}),
    "torchreid-fc512": (
        "torchreid",
        lambda: ResNet(last_stride=1),
        lambda s: {"state_dict": s | {"fc.0.weight": torch.ones(32, 32), "fc.1.weight": torch.ones(32)}},
    ),
    "fastreid": (
        "fastreid",
        lambda: ResNet(ceil=True),
        lambda s: {"model": under("backbone.", s) | {"heads.weight": torch.ones(7, 32)}, "iteration": 3},
    ),
    "fastreid-gem": (
        "fastreid",
        lambda: ResNet(ceil=True, exponent=2.5),
        lambda s: {"model": under("backbone.", s) | {"heads.pool_layer.p": torch.tensor([2.5])}},
    ),
    "strong-baseline": ("reid-strong-baseline", ResNet, lambda s: under("base.", s) | neck()),
    "cluster-contrast": (
        "cluster-contrast",
        lambda: ResNet(exponent=2.5),
        lambda s: {
            "state_dict": sequential(s) | {"module.gap.p": torch.tensor([2.5]), "module.feat_bn.weight": s["bn1.bias"]}
        },
    ),
    "cluster-contrast-avg": ("cluster-contrast", ResNet, lambda s: {"state_dict": sequential(s), "epoch": 3}),
}


def features_of(out: Path, name: str, size: tuple[int, int], images: Tensor) -> Tensor:
    backbone = Backbone(name, image_size=size)
    load_initial_weights(backbone, str(out))
    with torch.no_grad():
        return backbone.eval()(images)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert torch.nn.functional.cosine_similarity(theirs[:1], theirs[1:]).max() < 0.9999, "the images make no difference"
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.99999
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def small(folder: Path, architecture: str, **arguments: object) -> str:
    """Return a name for a small network of an architecture that timm has in large sizes only."""
    config = {"architecture": architecture, "model_args": arguments}
    config["pretrained_cfg"] = {"fixed_input_size": not architecture.startswith("resnet")}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"none": torch.zeros(1)}, folder / "model.safetensors")
    return f"local-dir:{folder}"


@pytest.mark.parametrize("kind", RESNETS)
def test_resnets_of_other_projects(kind: str, tmp_path: Path) -> None:
    form, build, wrap = RESNETS[kind]
    name = small(tmp_path, "resnet18", channels=RESNET_WIDTHS)
    network, images = shake(build()), torch.rand(3, 3, 96, 48, generator=torch.Generator().manual_seed(0))
    torch.save(wrap(dict(network.state_dict())), tmp_path / "theirs.pth")
    words = ["--form", form, "--backbone", name, "--image_size", "96", "48", "--out", str(tmp_path / "ours")]
    assert main(["convert", str(tmp_path / "theirs.pth"), *words]) == 0
    with torch.no_grad():
        assert_same(features_of(tmp_path / "ours", name, (96, 48), images), network(images))


@pytest.mark.parametrize("jigsaw", [False, True])
def test_transreid(jigsaw: bool, tmp_path: Path) -> None:
    name = small(tmp_path, "vit_tiny_patch16_224", depth=3)
    network, images = shake(TransReID(jigsaw=jigsaw)), torch.rand(2, 3, 256, 128)
    torch.save(under("module.", network.state_dict()), tmp_path / "theirs.pth")
    words = ["--form", "transreid", "--backbone", name, "--out", str(tmp_path / "ours")]
    assert main(["convert", str(tmp_path / "theirs.pth"), *words]) == 0
    with torch.no_grad():
        assert_same(features_of(tmp_path / "ours", name, (256, 128), images), network(images))


@pytest.mark.parametrize("size", [(192, 64), (128, 64)])
def test_solider(size: tuple[int, int], tmp_path: Path) -> None:
    """Maps are padded to whole windows, smaller ones too, and the semantic control is folded in."""
    name = small(tmp_path, "swin_tiny_patch4_window7_224", embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6))
    network, images = shake(Solider()), torch.rand(2, 3, *size)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    words = ["--form", "solider", "--backbone", name, "--image_size", *map(str, size)]
    assert main(["convert", str(tmp_path / "theirs.pth"), *words, "--out", str(tmp_path / "ours")]) == 0
    with torch.no_grad():
        expected = network(images)
        assert_same(features_of(tmp_path / "ours", name, size, images), expected)
