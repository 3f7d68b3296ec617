"""Checkpoints: of networks with another number of features than the architecture, and of other data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffreid_lightning.backbones import Backbone, BNNeck, save_backbone
from diffreid_lightning.deployment.trained_network import load_trained
from diffreid_lightning.errors import UserError
from diffreid_lightning.unsupervised.datamodule import UnlabeledDataModule
from diffreid_lightning.unsupervised.joint_adaptation import JointAdaptation
from diffreid_lightning.unsupervised.module import UnsupervisedReID
from diffreid_lightning.unsupervised.mutual_teaching import MutualMeanTeaching
from tests.fixtures.dataset_layouts import write_market1501

NAME, SIZE = "mobilenetv3_small_050", (64, 32)  # 288 features pooled, 1024 by its own head
SETTINGS = f"""
model: {{class_path: MutualMeanTeaching, init_args: {{backbone: {NAME}}}}}
data: {{class_path: UnlabeledDataModule, init_args: {{image_size: [64, 32]}}}}
"""


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    backbone = Backbone(NAME, image_size=SIZE, pooling="native")
    save_backbone(backbone, tmp_path / "weights", provenance={}, neck=BNNeck(backbone.num_features))
    return f"local-dir:{tmp_path / 'weights'}"


def started(kind: type[JointAdaptation] | type[MutualMeanTeaching], weights: str) -> Any:
    module = kind(NAME, image_size=SIZE, init_from=weights)
    assert module.neck.norm.num_features == 288
    module.setup("test")
    assert module.neck.norm.num_features == 1024
    return module


@pytest.mark.parametrize("kind", [JointAdaptation, MutualMeanTeaching])
def test_a_checkpoint_fills_a_network_of_another_form(
    kind: type[JointAdaptation] | type[MutualMeanTeaching], weights: str
) -> None:
    module = started(kind, weights)
    resumed = kind(NAME, image_size=SIZE, init_from=weights)
    state = {"state_dict": module.state_dict()}
    resumed.on_load_checkpoint(state)
    resumed.load_state_dict(state["state_dict"])
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert trained == [name for name, parameter in resumed.named_parameters() if parameter.requires_grad]
    images = torch.rand(4, 3, *SIZE)
    torch.testing.assert_close(resumed.eval()(images), module.eval()(images))


def test_the_source_has_batch_norm_layers_of_its_own(weights: str) -> None:
    module = started(JointAdaptation, weights)
    own, shared = module.source_neck.norms["norm"], module.neck.norm
    assert own.num_features == 1024 and torch.equal(own.running_mean, shared.running_mean)
    assert own.running_mean.data_ptr() != shared.running_mean.data_ptr()


def test_averages_take_up_a_pooling_that_changes_no_parameter() -> None:
    trained = MutualMeanTeaching("test_vit", image_size=SIZE, pooling="avg")
    resumed = MutualMeanTeaching("test_vit", image_size=SIZE)
    state = {"state_dict": trained.state_dict()}
    resumed.on_load_checkpoint(state)
    resumed.load_state_dict(state["state_dict"])
    assert resumed.teacher.backbone.pooling == resumed.partner_teacher.backbone.pooling == "avg"
    assert not any(parameter.requires_grad for parameter in resumed.teacher.parameters())
    images = torch.rand(4, 3, *SIZE)
    torch.testing.assert_close(resumed.eval()(images), trained.eval()(images))


@pytest.mark.parametrize("kind", [JointAdaptation, MutualMeanTeaching])
def test_their_checkpoints_are_put_to_use_as_they_are_evaluated(
    kind: type[JointAdaptation] | type[MutualMeanTeaching], weights: str, tmp_path: Path
) -> None:
    module = started(kind, weights)
    for name, value in module.state_dict().items():
        if name.startswith(("teacher.", "source_")) and value.is_floating_point():
            value.mul_(1.1)
    checkpoint = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 1, "global_step": 2}
    torch.save({**checkpoint, "run_config": SETTINGS}, tmp_path / "last.ckpt")
    images = torch.rand(4, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(load_trained(tmp_path / "last.ckpt")(images), module.eval()(images))


def attach(module: UnsupervisedReID, data: UnlabeledDataModule, fn: str) -> None:
    """Attach what checkpoints need of a trainer."""
    stub: Any = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn=fn), optimizers=[])
    module._trainer = stub


def saved(kind: type[UnsupervisedReID], data: UnlabeledDataModule) -> dict[str, Any]:
    """Return what a training on the data leaves."""
    module = kind("test_resnet", image_size=SIZE)
    attach(module, data, "fit")
    module.labels = np.zeros(len(data.train_set), dtype=np.int64)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market1501(tmp_path / "market", train_ids=range(2, 10))


def test_a_training_does_not_go_on_with_another_source(market: Path, tmp_path: Path) -> None:
    one, other = (
        UnlabeledDataModule(str(market), source=str(write_market1501(tmp_path / name, train_ids=people)))
        for name, people in (("one", range(20, 24)), ("other", range(30, 34)))
    )
    checkpoint = saved(JointAdaptation, one)
    module = JointAdaptation("test_resnet", image_size=SIZE)
    attach(module, one, "fit")
    module.on_load_checkpoint(checkpoint)
    attach(module, other, "fit")
    with pytest.raises(UserError, match="other training data") as error:
        module.on_load_checkpoint(checkpoint)
    assert "source's losses" in str(error.value)
    attach(module, one, "validate")
    module.on_load_checkpoint(checkpoint)


def test_people_trained_on_without_labels_are_no_validation(market: Path) -> None:
    everybody, some = (UnlabeledDataModule(str(market), val_share=share) for share in (0.0, 0.25))
    module = UnsupervisedReID("test_resnet", image_size=SIZE)
    attach(module, some, "validate")
    module.on_load_checkpoint(saved(UnsupervisedReID, some))
    with pytest.raises(UserError, match=r"trained on (\d+) of the \1 validation images"):
        module.on_load_checkpoint(saved(UnsupervisedReID, everybody))
