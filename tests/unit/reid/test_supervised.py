"""The supervised module and its warm-up: schedules against closed forms, and what must stop a run."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from diffreid_lightning.backbones import Backbone, BNNeck, save_backbone
from diffreid_lightning.callbacks.run_checkpoint import RunCheckpoint
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.reid.backbone_export import BackboneExport
from diffreid_lightning.reid.losses import BatchHardTriplet, LabelSmoothedCrossEntropy, ReIDLoss
from diffreid_lightning.reid.lr_warmup import WarmUp
from diffreid_lightning.reid.outputs import ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch, PersonImage, collate_persons
from diffreid_lightning.reid.supervised import SupervisedReID

RATE = 3.5e-4
SIZE = (64, 32)


# Warm-up.


def bag_of_tricks(epoch: int) -> float:
    return RATE * (1 if epoch < 40 else 0.1 if epoch < 70 else 0.01)


def cosine(epoch: int) -> float:
    return 1e-5 + (RATE - 1e-5) * (1 + math.cos(math.pi * epoch / 120)) / 2


def restarts(epoch: int) -> float:
    start, period = 0, 7
    while epoch >= start + period:
        start, period = start + period, period * 2
    return 1e-5 + (RATE - 1e-5) * (1 + math.cos(math.pi * (epoch - start) / period)) / 2


Schedule = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]

SCHEDULES: dict[str, tuple[Schedule | None, Callable[[int], float]]] = {
    "bag_of_tricks": (lambda o: lr_scheduler.MultiStepLR(o, [40, 70], 0.1), bag_of_tricks),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 120, eta_min=1e-5), cosine),
    "restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, 2, eta_min=1e-5), restarts),
    "lambda": (lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)), lambda epoch: RATE / (1 + epoch)),
    "none": (None, lambda epoch: RATE),
}


def warm(schedule: Schedule | None, epochs: int = 10, rate: float | Tensor = RATE) -> WarmUp:
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.Adam([{"params": [first]}, {"params": [second], "lr": 2 * RATE}], lr=rate)
    return WarmUp(optimizer, None if schedule is None else schedule(optimizer), epochs=epochs, factor=0.01)


def rates(scheduler: WarmUp, epochs: int) -> list[float]:
    found = []
    for _ in range(epochs):
        found.append(float(scheduler.optimizer.param_groups[0]["lr"]))
        assert scheduler.get_last_lr() == pytest.approx([float(g["lr"]) for g in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def expected(form: Callable[[int], float], epochs: int = 10) -> list[float]:
    rise = [min(1.0, 0.01 + 0.99 * epoch / epochs) if epochs else 1.0 for epoch in range(120)]
    return [form(epoch) * rise[epoch] for epoch in range(120)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_multiplies_the_schedule(name: str) -> None:
    schedule, form = SCHEDULES[name]
    assert rates(warm(schedule), 120) == pytest.approx(expected(form), rel=1e-9)


def test_the_first_and_tenth_rates_of_bag_of_tricks() -> None:
    found = rates(warm(SCHEDULES["bag_of_tricks"][0]), 11)
    assert (found[0], found[10]) == pytest.approx((3.5e-6, 3.5e-4))


def test_every_parameter_group_is_warmed() -> None:
    scheduler = warm(None)
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.01 * RATE, 0.02 * RATE])


def test_no_epochs_leave_the_schedule_alone() -> None:
    schedule, form = SCHEDULES["cosine"]
    assert rates(warm(schedule, epochs=0), 120) == pytest.approx(expected(form, epochs=0), rel=1e-9)


def test_a_tensor_rate_is_set_in_place() -> None:
    scheduler = warm(SCHEDULES["cosine"][0], rate=torch.tensor(RATE, dtype=torch.float64))
    rate = scheduler.optimizer.param_groups[0]["lr"]
    assert rates(scheduler, 120) == pytest.approx(expected(cosine), rel=1e-9)
    assert scheduler.optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("epoch", [0, 3, 10, 41])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_resumed_exactly(name: str, epoch: int) -> None:
    schedule, _ = SCHEDULES[name]
    first = warm(schedule)
    rates(first, epoch)
    file = io.BytesIO()
    torch.save((first.optimizer.state_dict(), first.state_dict()), file)
    file.seek(0)
    optimizer_state, state = torch.load(file, weights_only=True)
    second = warm(schedule)
    second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(state)
    assert second.get_last_lr() == first.get_last_lr()
    assert rates(second, 120 - epoch) == rates(first, 120 - epoch)


def test_a_schedule_that_waits_for_a_metric_is_refused() -> None:
    module = SupervisedReID("test_resnet", image_size=SIZE, scheduler=lambda o: lr_scheduler.ReduceLROnPlateau(o))
    with pytest.raises(UserError, match="ReduceLROnPlateau"):
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("epochs", "factor", "needed"),
    [(-1, 0.1, "epochs must be at least 0"), (1, 0.0, "factor must be greater than 0"), (1, 1.5, "at most 1")],
)
def test_warm_ups_out_of_range_are_refused(epochs: int, factor: float, needed: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=needed):
        WarmUp(optimizer, None, epochs, factor)


# Training.


class Constant(ReIDLoss):
    """A loss of known value."""

    name = "constant"

    def __init__(self, value: float, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.value = value

    def forward(self, outputs: ReIDOutputs, labels: Tensor) -> Tensor:
        return outputs.features.sum() * 0 + self.value


class FewPeople(LightningDataModule):
    """Four images of two identities, one batch an epoch."""

    num_identities = 2

    def train_dataloader(self) -> DataLoader[PersonBatch]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(4, 3, *SIZE, generator=generator)
        rows = [PersonImage(image, row // 2, row // 2, row, False) for row, image in enumerate(images)]
        return DataLoader(rows, batch_size=4, collate_fn=collate_persons)  # type: ignore[arg-type]

    test_dataloader = val_dataloader = predict_dataloader = train_dataloader


def network(**options: Any) -> SupervisedReID:
    torch.manual_seed(0)
    options.setdefault("optimizer", lambda params: torch.optim.SGD(params, lr=0.0))
    return SupervisedReID("test_resnet", image_size=SIZE, **options)


def trainer(folder: Path, epochs: int = 1, callbacks: list[Any] | None = None, val_batches: int = 0) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_val_batches=val_batches,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def test_two_losses_of_one_class_both_count(tmp_path: Path) -> None:
    runner = trainer(tmp_path)
    runner.fit(network(losses=[Constant(1.0), Constant(10.0, weight=3.0)]), FewPeople())
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(31)
    # As computed: weights belong to the objective.
    assert (logged["train/constant"], logged["train/constant_2"]) == pytest.approx((1, 10))


def test_a_loss_cannot_hide_the_modules_own_numbers() -> None:
    class Loss(Constant):
        name = "loss"

    losses = [Loss(1.0), BatchHardTriplet(), LabelSmoothedCrossEntropy(), BatchHardTriplet(0.1)]
    names = network(losses=losses).losses.names
    assert names[0] == "loss_2"
    assert len({"loss", "accuracy", "learning_rate", *names}) == 3 + len(losses)


@pytest.mark.parametrize("losses", [[], [nn.CrossEntropyLoss()]])
def test_losses_that_cannot_be_used_are_refused(losses: list[Any]) -> None:
    with pytest.raises(UserError, match=r"model\.losses"):
        network(losses=losses)


class Diverging(torch.optim.SGD):
    """Steps well until the given step, which writes NaN."""

    def __init__(self, params: Any, bad_step: int) -> None:
        super().__init__(params, lr=0.0)
        self.left = bad_step

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.left -= 1
        if self.left == 0:
            with torch.no_grad():
                self.param_groups[0]["params"][0].mul_(float("nan"))
        return loss


def test_a_diverged_network_never_overwrites_the_last_checkpoint(tmp_path: Path) -> None:
    module = network(optimizer=lambda params: Diverging(params, bad_step=2))
    with pytest.raises(RunError, match="weights are no longer finite"):
        trainer(tmp_path, epochs=2, callbacks=[RunCheckpoint()]).fit(module, FewPeople())
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def fake_trainer(module: SupervisedReID, others_finite: bool = True, fn: str = "fit") -> None:
    """Attach what the checks read of a trainer; ``others_finite`` is what the other processes say."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision and others_finite)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy,
        optimizers=[optimizer],
        precision="32-true",
        state=SimpleNamespace(fn=fn),
        current_epoch=0,
        global_step=0,
        ckpt_path=None,
    )


def test_all_processes_stop_when_one_diverges() -> None:
    module = network()
    assert "_loss_sum" not in dict(module.named_buffers()), "DDP gives all processes the buffers of rank zero"
    fake_trainer(module)
    module.on_train_epoch_end()
    fake_trainer(module, others_finite=False)
    with pytest.raises(RunError, match="no longer finite"):
        module.on_train_epoch_end()


def test_an_epoch_taken_up_in_its_middle_sums_its_losses_on_the_modules_device() -> None:
    module = network().to("meta")
    fake_trainer(module)
    module.on_train_start()
    assert module._loss_sum.total.device == module.device


def test_tests_and_predictions_take_the_validation_step_of_a_subclass() -> None:
    class Own(SupervisedReID):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return "own"

    module = Own(backbone="test_resnet", image_size=SIZE)
    batch: Any = None
    assert module.test_step(batch, 0) == module.predict_step(batch, 0) == "own"


@pytest.mark.parametrize("tensor", ["neck.norm.running_var", "neck.norm.weight"])
def test_validation_does_not_start_on_broken_weights(tensor: str) -> None:
    module = network()
    fake_trainer(module)
    module.on_validation_start()
    module.state_dict()[tensor][-1] = float("inf")
    with pytest.raises(RunError, match="weights are no longer finite"):
        module.on_validation_start()


# Evaluation.


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_random_network_is_not_evaluated(stage: str, tmp_path: Path) -> None:
    module = network()
    runner = trainer(tmp_path, val_batches=1)
    with pytest.raises(UserError, match="still random") as error:
        getattr(runner, stage)(module, datamodule=FewPeople(), weights_only=True)
    assert "--ckpt_path last" in str(error.value)


def test_a_network_trained_or_loaded_here_is_evaluated(tmp_path: Path) -> None:
    module, data = network(), FewPeople()
    runner = trainer(tmp_path, callbacks=[RunCheckpoint()])
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    loaded = network()
    path = tmp_path / "checkpoints/last.ckpt"
    trainer(tmp_path).test(loaded, data, ckpt_path=path, weights_only=True, verbose=False)
    trainer(tmp_path).test(loaded, data, verbose=False)
    assert torch.equal(loaded.neck.norm.running_mean, module.neck.norm.running_mean)  # type: ignore[arg-type]


def test_the_feature_is_taken_before_or_after_the_neck() -> None:
    images = torch.rand(2, 3, *SIZE)
    before, after = network(feature="before_bn").eval(), network(feature="after_bn").eval()
    for module in (before, after):
        module.neck.norm.running_mean.fill_(0.5)  # type: ignore[union-attr]
        module.neck.norm.running_var.fill_(4.0)  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(before(images), before.backbone(images))
        torch.testing.assert_close(after(images), (before(images) - 0.5) / math.sqrt(4 + 1e-5))


def test_flip_average_makes_an_image_and_its_mirror_image_equal() -> None:
    images = torch.rand(2, 3, *SIZE)
    plain, averaged = network().eval(), network(flip_average=True).eval()
    with torch.no_grad():
        assert not torch.allclose(plain(images), plain(images.flip(-1)), rtol=1e-4)
        torch.testing.assert_close(averaged(images), averaged(images.flip(-1)))
        torch.testing.assert_close(averaged(images), (plain(images) + plain(images.flip(-1))) / 2)


# Checkpoints.


def checkpoint_of(identities: int, features: int) -> dict[str, Any]:
    weights = {"neck.norm.weight": torch.ones(features), "classifier.weight": torch.zeros(identities, features)}
    return {"state_dict": weights}


def test_a_checkpoint_of_other_identities_is_refused() -> None:
    module = network(init_from=None)
    fake_trainer(module, fn="fit")
    features = module.backbone.num_features
    module.on_load_checkpoint(checkpoint_of(7, features))
    assert module.classifier is not None and module.classifier.weight.shape == (7, features)
    with pytest.raises(UserError, match="other training data") as error:
        module.on_load_checkpoint(checkpoint_of(9, features))
    assert "7" in str(error.value) and "9" in str(error.value)


@pytest.mark.parametrize("fn", ["fit", "test"])
def test_a_checkpoint_of_other_features_is_refused(fn: str) -> None:
    module = network()
    features = module.backbone.num_features + 1
    fake_trainer(module, fn=fn)
    with pytest.raises(UserError, match=f"{features} dimensions"):
        module.on_load_checkpoint(checkpoint_of(7, features))
    assert module.neck.norm.num_features == features - 1


def native_mobilenet(folder: Path) -> Path:
    """Export a MobileNetV3 whose feature is that of its own head: wider than its map, behind a layer of its own."""
    backbone = Backbone("mobilenetv3_small_050", image_size=SIZE, pooling="native")
    neck = BNNeck(backbone.num_features)
    neck.norm.running_mean.normal_()  # type: ignore[union-attr]
    return save_backbone(backbone, folder, provenance={}, neck=neck)


def sizes(module: SupervisedReID) -> list[int]:
    """Every dimension that must be that of the feature."""
    assert module.classifier is not None
    with torch.no_grad():
        images = torch.rand(2, 3, *SIZE)
        return [
            module.backbone.num_features,
            module.eval().backbone(images).shape[1],
            module.neck.norm.num_features,
            module.classifier.in_features,
            module(images).shape[1],
        ]


def test_a_native_head_keeps_its_dimension_through_export_fine_tuning_and_resuming(tmp_path: Path) -> None:
    source = native_mobilenet(tmp_path / "source")
    width = timm.create_model("mobilenetv3_small_050").head_hidden_size
    assert width != timm.create_model("mobilenetv3_small_050").num_features

    def fit(epochs: int, checkpoint: Path | None) -> SupervisedReID:
        module = SupervisedReID("mobilenetv3_small_050", image_size=SIZE, init_from=str(source))
        if checkpoint is not None:
            module.expect_checkpoint()  # as the command line does
        callbacks = [RunCheckpoint(), BackboneExport()]
        runner = trainer(tmp_path / "run", epochs=epochs, callbacks=callbacks)
        runner.fit(module, FewPeople(), ckpt_path=checkpoint, weights_only=True)
        assert runner.current_epoch == epochs
        return module

    assert sizes(fit(1, None)) == [width] * 5
    resumed = fit(2, tmp_path / "run/checkpoints/last.ckpt")
    assert sizes(resumed) == [width] * 5

    reloaded = SupervisedReID("mobilenetv3_small_050", image_size=SIZE, init_from=str(tmp_path / "run/backbone")).eval()
    reloaded.setup("test")
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(reloaded(images), resumed(images))


def test_a_network_that_was_not_trained_is_not_exported(tmp_path: Path) -> None:
    module = SupervisedReID("test_resnet", image_size=SIZE)
    untrained: Any = SimpleNamespace(is_global_zero=True, global_step=0, default_root_dir=str(tmp_path))
    BackboneExport().on_fit_end(untrained, module)
    assert not list(tmp_path.iterdir())


class OwnModule(LightningModule):
    """A user's module around a backbone of the package."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)

    def training_step(self, batch: PersonBatch, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.backbone(batch.images).square().mean()
        return loss


def test_the_backbone_of_a_users_module_is_exported_too(tmp_path: Path) -> None:
    module = OwnModule(Backbone("test_resnet", image_size=SIZE))
    trainer(tmp_path, callbacks=[BackboneExport()]).fit(module, FewPeople())
    started = SupervisedReID("test_resnet", image_size=SIZE, init_from=str(tmp_path / "backbone")).eval()
    started.setup("test")
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(started.backbone(images), module.backbone.eval()(images))
    other = tmp_path / "other"
    trainer(other, callbacks=[BackboneExport()]).fit(
        OwnModule(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 2))), FewPeople()
    )
    assert not (other / "backbone").exists(), "a network of another kind is not exported"


def test_a_fit_with_nothing_left_to_train_keeps_the_provenance(tmp_path: Path) -> None:
    def fit(feature: str, epochs: int, checkpoint: Path | None = None) -> bytes:
        module = OwnModule(Backbone("test_resnet", image_size=SIZE))
        vars(module)["feature"] = feature
        callbacks = [RunCheckpoint(), BackboneExport()]
        trainer(tmp_path, epochs=epochs, callbacks=callbacks).fit(
            module, FewPeople(), ckpt_path=checkpoint, weights_only=True
        )
        return (tmp_path / "backbone/provenance.json").read_bytes()

    last, first = tmp_path / "checkpoints/last.ckpt", fit("one", 1)
    assert fit("another", 1, last) == first
    assert b'"another"' in fit("another", 2, last), "these epochs were trained with it"
    shutil.rmtree(tmp_path / "backbone")
    assert b'"third"' in fit("third", 2, last), "it was killed before its export"


def test_a_trained_network_is_loaded_without_a_trainer(tmp_path: Path) -> None:
    module = network(pooling="avg", last_stride=2)
    trainer(tmp_path, callbacks=[RunCheckpoint()]).fit(module, FewPeople())
    path = tmp_path / "checkpoints/last.ckpt"
    # init_from: whatever training started from is not wanted any more.
    loaded = SupervisedReID.load_from_checkpoint(
        path, backbone="test_resnet", image_size=SIZE, weights_only=True, init_from="timm"
    )
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), module.eval()(images))
    assert (loaded.backbone.pooling, loaded.backbone.last_stride) == ("avg", 2)
    trainer(tmp_path).test(loaded, FewPeople(), verbose=False)
    with torch.no_grad():
        assert torch.equal(loaded(images), module(images))


def test_a_checkpoint_of_another_module_is_named() -> None:
    module = network()
    fake_trainer(module)
    with pytest.raises(UserError, match=r"neck\.norm\.weight") as error:
        module.on_load_checkpoint({"state_dict": {"unet.conv_in.weight": torch.zeros(1)}})
    assert "unet.conv_in.weight" in str(error.value)
