"""ResNet-IBN-a against a network written out here, with weights in the layout of the authors' release."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from diffreid_lightning.backbones import Backbone, fill_backbone, load_initial_weights, open_foreign
from diffreid_lightning.cli import main
from diffreid_lightning.errors import UserError

State = dict[str, Tensor]
LAYERS = {"resnet50_ibn_a": (3, 4, 6, 3), "resnet101_ibn_a": (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)


def released(name: str) -> State:
    """Random weights under the names of the files that the authors of IBN-Net publish."""
    state: State = {}
    rng = torch.Generator().manual_seed(0)

    def convolution(key: str, inputs: int, outputs: int, side: int) -> None:
        state[f"{key}.weight"] = torch.randn(outputs, inputs, side, side, generator=rng) * (2 / inputs / side**2) ** 0.5

    def norm(key: str, channels: int, batch: bool = True) -> None:
        for part in ("weight", "bias", "running_mean", "running_var")[: 4 if batch else 2]:
            shift = part in ("weight", "running_var")
            state[f"{key}.{part}"] = torch.rand(channels, generator=rng) * 0.5 + (0.75 if shift else -0.25)
        if batch:
            state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, (count, width) in enumerate(zip(LAYERS[name], WIDTHS, strict=True), start=1):
        for number in range(count):
            block = f"layer{stage}.{number}"
            convolution(f"{block}.conv1", inputs, width, 1)
            if stage < 4:
                norm(f"{block}.bn1.IN", width // 2, batch=False)
                norm(f"{block}.bn1.BN", width // 2)
            else:
                norm(f"{block}.bn1", width)
            convolution(f"{block}.conv2", width, width, 3)
            norm(f"{block}.bn2", width)
            convolution(f"{block}.conv3", width, 4 * width, 1)
            norm(f"{block}.bn3", 4 * width)
            if number == 0:
                convolution(f"{block}.downsample.0", inputs, 4 * width, 1)
                norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return state


def forward(state: State, name: str, images: Tensor) -> Tensor:
    """The network of Pan et al. in evaluation, as functions of its weights; the last map."""

    def batch_norm(x: Tensor, key: str) -> Tensor:
        mean, variance = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{key}.weight"], state[f"{key}.bias"])

    def mixed(x: Tensor, key: str) -> Tensor:
        if f"{key}.IN.weight" not in state:
            return batch_norm(x, key)
        first, second = x.chunk(2, dim=1)
        first = F.instance_norm(first, weight=state[f"{key}.IN.weight"], bias=state[f"{key}.IN.bias"])
        return torch.cat([first, batch_norm(second, f"{key}.BN")], dim=1)

    x = F.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(batch_norm(x, "bn1").relu(), 3, stride=2, padding=1)
    for stage, count in enumerate(LAYERS[name], start=1):
        for number in range(count):
            block, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = mixed(F.conv2d(x, state[f"{block}.conv1.weight"]), f"{block}.bn1").relu()
            y = F.conv2d(y, state[f"{block}.conv2.weight"], stride=stride, padding=1)
            y = F.conv2d(batch_norm(y, f"{block}.bn2").relu(), state[f"{block}.conv3.weight"])
            if number == 0:
                x = batch_norm(
                    F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1"
                )
            x = (batch_norm(y, f"{block}.bn3") + x).relu()
    return x


def assert_equal_to_the_reference(backbone: Backbone, state: State, name: str) -> None:
    images = torch.rand(2, 3, 64, 32)
    normalized = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        expected, found = forward(state, name, normalized), backbone.model.forward_features(normalized)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_timm_knows_the_names_and_the_module_they_are_of() -> None:
    names = ["resnet50_ibn_a", "resnet101_ibn_a", "resnet152_ibn_a"]
    assert timm.list_models(module="resnet_ibn") == names
    assert timm.list_models(module="resnet_ibn", pretrained=True) == names[:2]
    assert len(timm.list_models(module="resnet_mgn")) == 5
    for name in names:
        assert timm.model_entrypoint(name, module_filter="resnet_ibn").__name__ == name
        assert timm.get_pretrained_cfg(name).architecture == name


def test_the_deeper_network_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet101_ibn_a")
    published = {name: weight.shape for name, weight in released("resnet101_ibn_a").items()}
    assert {name: weight.shape for name, weight in model.state_dict().items()} == published


def test_published_weights_give_the_published_network(tmp_path: Path) -> None:
    name = "resnet50_ibn_a"
    state = released(name)
    torch.save(state, tmp_path / "theirs.pth")
    backbone = Backbone(name, image_size=(64, 32), last_stride=2).eval()
    report = fill_backbone(backbone, open_foreign(tmp_path / "theirs.pth", "timm"))
    assert not report.is_partial and set(report.dropped_head) == {"fc.weight", "fc.bias"}
    assert_equal_to_the_reference(backbone, state, name)


def test_the_converted_file_of_a_trainer_is_a_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its names begin with those of a wrapper, as the tar files of the authors' ImageNet training have them."""
    name = "resnet50_ibn_a"
    state = released(name)
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "theirs.pth.tar")
    words = ["convert", str(tmp_path / "theirs.pth.tar"), "--form", "timm", "--out", str(tmp_path / "ours")]
    assert main([*words, "--backbone", "resnet50"]) == 2
    assert "which is resnet50_ibn_a by its depth" in capsys.readouterr().err
    assert main([*words, "--backbone", name]) == 0
    backbone = Backbone(name, image_size=(64, 32)).eval()
    assert not load_initial_weights(backbone, str(tmp_path / "ours")).is_partial and backbone.last_stride == 2
    assert_equal_to_the_reference(backbone, state, name)


def test_weights_of_the_release_are_named_with_the_command_that_converts_them() -> None:
    with pytest.raises(UserError, match=r"d9d0bb7b[.]pth and convert it: python -m") as caught:
        load_initial_weights(Backbone("resnet50_ibn_a", image_size=(64, 32)), "timm")
    assert "--form timm --backbone resnet50_ibn_a --out DIR" in str(caught.value)
