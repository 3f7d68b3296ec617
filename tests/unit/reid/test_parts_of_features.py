"""Features of several parts, the classifiers that losses need, and layers that are frozen at first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer

from diffreid_lightning.backbones import CosineClassifier, IdentityClassifier
from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.errors import UserError
from diffreid_lightning.filtering.scorer import ScorerTraining
from diffreid_lightning.reid.backbone_export import BackboneExport
from diffreid_lightning.reid.freeze_backbone import FreezeBackbone
from diffreid_lightning.reid.losses import (
    AngularMargin,
    BatchHardTriplet,
    CenterLoss,
    CircleSoftmax,
    LabelSmoothedCrossEntropy,
    batch_hard_triplet,
    center_loss,
    circle_softmax,
    label_smoothed_cross_entropy,
)
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.reid.supervised import SupervisedReID
from diffreid_lightning.unsupervised.joint_adaptation import JointAdaptation
from diffreid_lightning.unsupervised.mutual_teaching import MutualMeanTeaching
from tests.fixtures import small_architectures  # noqa: F401 (registers the names)
from tests.unit.reid.test_supervised import SIZE, FewPeople, trainer

GROUPS = ((0, 4), (4, 8), (8, 16), (16, 20), (20, 32))  # two wholes, the halves, a whole, the thirds


def module_of(name: str, losses: list[Any], **options: Any) -> SupervisedReID:
    torch.manual_seed(0)
    options.setdefault("optimizer", lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1))
    return SupervisedReID(name, image_size=SIZE, losses=losses, **options)


def batch_of_eight() -> PersonBatch:
    images, labels = torch.rand(8, 3, *SIZE), torch.arange(8) // 2
    return PersonBatch(images, labels, labels, torch.arange(8), torch.zeros(8, dtype=torch.bool))


@pytest.mark.parametrize("margin", [True, False])
def test_losses_are_means_over_parts_and_groups(margin: bool) -> None:
    classified = CircleSoftmax() if margin else LabelSmoothedCrossEntropy()
    module = module_of("small_mgn", [classified, BatchHardTriplet(None, compares="embeddings"), CenterLoss()]).eval()
    module.classifier = module.classifier_class(32, 4)
    for loss in module.losses:
        loss.build(32, 4)
    batch = batch_of_eight()
    with torch.no_grad():
        total, values = module.compute_losses(batch)
        embeddings = module.neck(module.backbone(batch.images))
        weight, labels = module.classifier.weight, batch.labels
        by_part = []
        for first in range(0, 32, 4):
            part, own = embeddings[:, first : first + 4], weight[:, first : first + 4]
            if margin:
                by_part.append(circle_softmax(F.normalize(part) @ F.normalize(own).T, labels))
            else:
                by_part.append(label_smoothed_cross_entropy(part @ own.T, labels))
        by_group = [batch_hard_triplet(embeddings[:, first:last], labels, margin=None) for first, last in GROUPS]
        whole = center_loss(embeddings, torch.zeros(4, 32), labels)
    expected = {classified.name: sum(by_part) / 8, "triplet": sum(by_group) / 5, "center": whole}
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value)
    torch.testing.assert_close(total, expected[classified.name] + expected["triplet"] + 5e-4 * whole)


def test_the_classifier_is_of_the_kind_that_the_losses_need() -> None:
    assert module_of("test_resnet", [CircleSoftmax(), AngularMargin()]).classifier_class is CosineClassifier
    assert module_of("test_resnet", [LabelSmoothedCrossEntropy()]).classifier_class is IdentityClassifier
    with pytest.raises(UserError, match="CircleSoftmax and LabelSmoothedCrossEntropy cannot share a classifier"):
        module_of("test_resnet", [LabelSmoothedCrossEntropy(), CircleSoftmax()])
    with pytest.raises(UserError, match="The scorer's classifier cannot be one of cosines"):
        ScorerTraining("test_resnet", image_size=SIZE, losses=[CircleSoftmax()])


def test_a_checkpoint_restores_parts_cosines_and_centers(tmp_path: Path) -> None:
    losses = [CircleSoftmax(), BatchHardTriplet(), CenterLoss()]
    module = module_of("small_mgn", losses)
    trainer(tmp_path, epochs=2, callbacks=[RunCheckpoint(), BackboneExport()]).fit(module, FewPeople())
    assert isinstance(module.classifier, CosineClassifier) and losses[2].centers.any()
    assert set(module.metric_names) >= {"train/circle_softmax", "train/accuracy", "train/center"}
    loaded = module_of("small_mgn", [CircleSoftmax(), BatchHardTriplet(), CenterLoss()])
    path = tmp_path / "checkpoints/last.ckpt"
    trainer(tmp_path).test(loaded, FewPeople(), ckpt_path=path, weights_only=True, verbose=False)
    assert isinstance(loaded.classifier, CosineClassifier)
    state, again = module.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys() and all(torch.equal(again[name], state[name]) for name in state)
    started = module_of("small_mgn", [CircleSoftmax()], init_from=str(tmp_path / "backbone"))
    started.setup("test")
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(started.eval()(images), module.eval()(images))


class Snapshots(Callback):
    """Keep the state after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

    def changed(self, epoch: int) -> set[str]:
        before, after = self.states[epoch : epoch + 2]
        return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["small_mgn", "small_vit", "test_resnet"])
def test_pretrained_layers_keep_weights_and_statistics_while_they_are_frozen(name: str, tmp_path: Path) -> None:
    module, snapshots = module_of(name, [LabelSmoothedCrossEntropy(), BatchHardTriplet()]), Snapshots()
    if name == "small_mgn":  # the last norms begin at 0, behind which nothing would have a gradient
        for layer in module.backbone.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(layer.weight)
    runner = trainer(tmp_path, epochs=2, callbacks=[FreezeBackbone(epochs=1), snapshots])
    runner.fit(module, FewPeople())
    frozen, free = snapshots.changed(0), snapshots.changed(1)
    inside = {key for key in frozen if key.startswith("backbone.model.")}
    assert {"neck.norm.weight", "classifier.weight"} <= frozen
    if name == "small_mgn":
        assert inside and all(key.startswith("backbone.model.part_heads.") for key in inside)
        assert {"backbone.model.layer4.0.conv1.weight", "backbone.model.branch3.layer4.0.conv1.weight"} <= free
        assert "backbone.model.layer1.0.bn1.running_mean" in free
    else:
        assert not inside
        assert "backbone.model.pos_embed" in free if name == "small_vit" else "backbone.pool.p" in frozen
    assert module.backbone.training and all(part.training for part in module.backbone.model.modules())


def test_a_second_network_is_frozen_as_well() -> None:
    module = MutualMeanTeaching("test_resnet", image_size=(64, 32))
    runner: Any = SimpleNamespace(current_epoch=0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    callback = FreezeBackbone(epochs=1)
    callback.on_train_batch_start(runner, module, None, 0)
    callback.on_before_optimizer_step(runner, module, cast(Any, None))
    with_gradient = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert {name.rpartition(".model.")[0] for name in with_gradient} == {""}
    assert "partner.neck.norm.weight" in with_gradient
    assert not any(layer.training for layer in module.partner.backbone.model.children())


def test_the_norms_of_a_second_domain_are_frozen_as_well() -> None:
    module = JointAdaptation("test_resnet", image_size=SIZE)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    runner: Any = SimpleNamespace(current_epoch=0)
    FreezeBackbone(epochs=1).on_before_optimizer_step(runner, module, cast(Any, None))
    with_gradient = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert "source_neck.norms.norm.weight" in with_gradient
    assert not any(name.startswith(("source_backbone.", "backbone.model.")) for name in with_gradient)


@pytest.mark.parametrize(
    "losses",
    [None, [BatchHardTriplet()], [BatchHardTriplet(), CenterLoss()], [BatchHardTriplet(compares="embeddings")]],
)
def test_all_that_is_trained_has_a_gradient(losses: list[Any] | None, tmp_path: Path) -> None:
    """DDP waits for one of every parameter; the neck has none where the losses compare what comes before it."""
    missing: set[str] = set()

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            trained = [(name, each) for name, each in pl_module.named_parameters() if each.requires_grad]
            missing.update(name for name, parameter in trained if parameter.grad is None)

    module = SupervisedReID("test_resnet", image_size=SIZE, losses=losses)
    trainer(tmp_path, epochs=1, callbacks=[Gradients()]).fit(module, FewPeople())
    assert not missing


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("target", "source"), [(True, True), (True, False), (False, True)])
def test_each_domain_trains_the_neck_that_its_losses_read(target: bool, source: bool, own: bool, resumed: bool) -> None:
    losses = {True: None, False: [BatchHardTriplet()]}
    arguments: Any = {"losses": losses[target], "source_losses": losses[source], "domain_norms": own}
    module = JointAdaptation("test_resnet", image_size=SIZE, **arguments)
    if resumed:
        module.expect_checkpoint()
    module.setup("test")
    assert module.neck.norm.weight.requires_grad == (target or (source and not own))
    if module.source_neck is not None:
        neck: Any = module.source_neck.norms["norm"]
        assert (neck.weight.requires_grad, neck.bias.requires_grad) == (source, False)
