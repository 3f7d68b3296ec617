"""A network comes back from a folder, a run and a checkpoint as its run evaluates it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffreid_lightning.backbones import Backbone, BNNeck, save_backbone
from diffreid_lightning.deployment.trained_network import TrainedNetwork, load_trained
from diffreid_lightning.errors import UserError

SIZE = (64, 32)
SETTINGS = """
model: {{class_path: SupervisedReID, init_args: {{backbone: test_resnet, feature: {feature}, flip_average: {flip}}}}}
data: {{class_path: ReIDDataModule, init_args: {{image_size: [64, 32]}}}}
"""


def make(seed: int = 0) -> TrainedNetwork:
    torch.manual_seed(seed)
    backbone = Backbone("test_resnet", image_size=SIZE, last_stride=2, mean=(0.1, 0.2, 0.3))
    neck = BNNeck(backbone.num_features)
    torch.nn.init.uniform_(neck.norm.weight)
    torch.nn.init.uniform_(neck.norm.running_mean)
    return TrainedNetwork(backbone, neck)


def images() -> torch.Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("feature", ["after_bn", "before_bn"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_run_decides_about_neck_and_mirror_image(tmp_path: Path, feature: str, flip: bool) -> None:
    network = make()
    save_backbone(network.backbone, tmp_path / "run/backbone", provenance={}, neck=network.neck)
    (tmp_path / "run/config.yaml").write_text(SETTINGS.format(feature=feature, flip=str(flip).lower()))
    with torch.no_grad():
        views = [images(), images().flip(-1)] if flip else [images()]
        features = torch.stack([network.backbone(view) for view in views])
        if feature == "after_bn":
            features = torch.stack([network.neck(each) for each in features])
    for place in ("run", "run/backbone"):
        loaded = load_trained(tmp_path / place)
        torch.testing.assert_close(loaded(images()), features.mean(dim=0))
        assert loaded.record["feature"] == feature and loaded.record["last_stride"] == 2


def test_a_folder_that_was_copied_out_of_its_run_is_compared_as_in_it(tmp_path: Path) -> None:
    network = make()
    training = {"feature": "before_bn", "flip_average": True}
    save_backbone(network.backbone, tmp_path / "elsewhere", provenance=training, neck=network.neck)
    loaded = load_trained(tmp_path / "elsewhere")
    assert loaded.record["feature"] == "before_bn" and loaded.record["flip_average"] is True


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_network_of_any_size_comes_back_at_its_own(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, image_size=SIZE).eval()
    save_backbone(backbone, tmp_path / "folder", provenance={})
    with torch.no_grad():
        assert torch.equal(load_trained(tmp_path / "folder")(images()), backbone(images()))


def test_a_folder_alone_uses_its_neck(tmp_path: Path) -> None:
    network = make()
    save_backbone(network.backbone, tmp_path / "with", provenance={}, neck=network.neck)
    save_backbone(network.backbone, tmp_path / "without", provenance={})
    torch.testing.assert_close(load_trained(tmp_path / "with")(images()), network(images()))
    bare = load_trained(tmp_path / "without")
    torch.testing.assert_close(bare(images()), network.backbone(images()))
    assert load_trained(tmp_path / "with").record == network.record != bare.record


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_is_the_network_that_is_evaluated(tmp_path: Path, averaged: bool) -> None:
    network, student = make(), make(seed=5)
    state = {f"teacher.{name}" if averaged else name: value for name, value in network.state_dict().items()}
    checkpoint = {
        "state_dict": {**(student.state_dict() if averaged else {}), **state},
        "pytorch-lightning_version": "2.6.0",
        "epoch": 1,
        "global_step": 2,
        "run_config": SETTINGS.format(feature="after_bn", flip="false"),
    }
    file = tmp_path / "run/checkpoints/last.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(checkpoint, file)
    for place in (file, tmp_path / "run"):
        torch.testing.assert_close(load_trained(place)(images()), network(images()))


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained network"):
        load_trained(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no trained network"):
        load_trained(tmp_path / "empty")
    foreign = {"state_dict": {"w": torch.ones(1)}, "pytorch-lightning_version": "2", "epoch": 0, "global_step": 0}
    torch.save(foreign, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of a Re-ID run"):
        load_trained(tmp_path / "x.ckpt")
