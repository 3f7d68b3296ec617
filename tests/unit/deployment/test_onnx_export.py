"""ONNX files compute the network's features at any batch size, and say what images they take."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffreid_lightning.backbones import Backbone
from diffreid_lightning.deployment import onnx_export
from diffreid_lightning.deployment.onnx_export import export_onnx
from diffreid_lightning.deployment.trained_network import TrainedNetwork
from diffreid_lightning.errors import RunError, UserError

SIZE = (64, 32)


def make(name: str) -> TrainedNetwork:
    torch.manual_seed(0)
    return TrainedNetwork(Backbone(name, image_size=SIZE, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))


@pytest.mark.slow
def test_features_are_the_networks(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make("test_vit")
    made = export_onnx(network, tmp_path / "new/network.onnx")
    session = onnxruntime.InferenceSession(str(made.path))
    images = torch.rand(5, 3, *SIZE)
    found = session.run(["features"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, network(images).numpy(), atol=1e-4 * np.abs(found).max())
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["image_size"]) == list(SIZE) and about["architecture"] == "test_vit"
    assert sorted(file.name for file in made.path.parent.iterdir()) == ["network.onnx", "network_example.py"]


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not name an ONNX file"):
        export_onnx(make("test_resnet"), tmp_path / "network.pt")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"cannot be written") as caught:
        export_onnx(make("test_resnet"), tmp_path / "network.onnx")
    assert caught.value.remedy == "pip install 'diffreid_lightning[onnx]'"


def test_other_features_are_refused() -> None:
    class Session:
        def run(self, _: object, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.zeros((len(given["images"]), 96), np.float32)]

    with pytest.raises(RunError, match="other features"):
        onnx_export._compare(make("test_resnet"), Session())


def test_an_example_that_was_adapted_is_left_as_it_is(tmp_path: Path) -> None:
    out, example = tmp_path / "network.onnx", tmp_path / "network_example.py"
    assert onnx_export._write_example(out) == onnx_export._write_example(out) == (example, False)
    assert example.read_bytes() == onnx_export._EXAMPLE.read_bytes()
    example.write_text("print('mine')")
    assert onnx_export._write_example(out) == (example, True)
    assert example.read_text() == "print('mine')"
