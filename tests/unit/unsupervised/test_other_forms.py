"""Networks whose initial weights have another number of features than the architecture: start, resume, use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffreid_lightning.backbones import Backbone, BNNeck, save_backbone
from diffreid_lightning.deployment.trained_network import load_trained
from diffreid_lightning.unsupervised.joint_adaptation import JointAdaptation
from diffreid_lightning.unsupervised.mutual_teaching import MutualMeanTeaching

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
