from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from diffreid_lightning.callbacks.averaging import FinishAveraging
from diffreid_lightning.errors import UserError


class Linear(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)


def average_of(callback: EMAWeightAveraging) -> set[str]:
    """On which devices it is kept once fit has begun, where training runs on ``meta`` and the module is on the CPU."""
    trainer: Any = SimpleNamespace(
        callbacks=[FinishAveraging(), callback], strategy=SimpleNamespace(root_device=torch.device("meta"))
    )
    module = Linear()
    for each in trainer.callbacks:
        each.setup(trainer, module, "fit")
    assert module.layer.weight.device.type == "cpu"
    assert callback._average_model is not None
    return {parameter.device.type for parameter in callback._average_model.parameters()}


def test_the_average_is_kept_where_training_runs() -> None:
    assert average_of(EMAWeightAveraging(decay=0.9)) == {"meta"}


def test_a_device_that_was_chosen_stays() -> None:
    assert average_of(EMAWeightAveraging("cpu", decay=0.9)) == {"cpu"}


def test_a_module_is_built_before_swa_copies_it() -> None:
    class Late(Linear):
        def configure_model(self) -> None:
            self.more = torch.nn.Linear(2, 2)

    swa, module = StochasticWeightAveraging(swa_lrs=0.1), Late()
    trainer: Any = SimpleNamespace(callbacks=[FinishAveraging(), swa], strategy=SimpleNamespace(root_device="cpu"))
    FinishAveraging().setup(trainer, module, "test")
    assert not hasattr(module, "more")
    FinishAveraging().setup(trainer, module, "fit")
    assert hasattr(module, "more")


def test_a_complete_average_is_not_gone_on_with() -> None:
    """Lightning's SWA ends with an epoch that only measures statistics of batch norm, and counts it."""

    def go_on(epochs: int, epoch: int, averaged: int = 1) -> None:
        state = {"n_averaged": averaged, "latest_update_epoch": 1 if averaged else -1}
        checkpoint = {"epoch": epoch, "state_dict": {}, "callbacks": {"StochasticWeightAveraging": state}}
        trainer: Any = SimpleNamespace(
            callbacks=[FinishAveraging()], state=SimpleNamespace(fn=TrainerFn.FITTING), max_epochs=epochs
        )
        FinishAveraging().on_load_checkpoint(trainer, Linear(), checkpoint)

    for epochs in (4, -1):
        with pytest.raises(UserError, match=r"trainer\.max_epochs 2, as many.*(?s:.*)init_from RUN/backbone"):
            go_on(epochs, epoch=2)
    go_on(2, epoch=2)  # nothing is left to train
    go_on(4, epoch=1)  # the epoch of statistics was not reached
    go_on(4, epoch=2, averaged=0)  # nor was the first of the average


def test_averaged_weights_are_not_gone_on_with_as_if_they_were_trained() -> None:
    trainer: Any = SimpleNamespace(callbacks=[FinishAveraging()], state=SimpleNamespace(fn=TrainerFn.FITTING))
    checkpoint: dict[str, Any] = {"state_dict": {}, "current_model_state": {}}
    with pytest.raises(UserError, match="averaged weights"):
        FinishAveraging().on_load_checkpoint(trainer, Linear(), checkpoint)
    FinishAveraging().on_load_checkpoint(trainer, Linear(), {"state_dict": {}})
    trainer.callbacks.append(EMAWeightAveraging(decay=0.9))
    FinishAveraging().on_load_checkpoint(trainer, Linear(), checkpoint)
    trainer.callbacks.pop()
    trainer.state.fn = TrainerFn.TESTING
    FinishAveraging().on_load_checkpoint(trainer, Linear(), checkpoint)


class Trained(Linear):
    """Three steps away from its first weights; the features have the checkpoint's number."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.tested = self.layer.weight.clone()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["state_dict"]["layer.weight"].shape != self.layer.weight.shape:
            self.layer = torch.nn.Linear(3, len(checkpoint["state_dict"]["layer.weight"]))


def averaging_trainer(folder: Path, epochs: int, precision: Any = "32-true") -> Trainer:
    callbacks = [FinishAveraging(), EMAWeightAveraging(decay=0.5), ModelCheckpoint(folder, save_last=True)]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=callbacks, precision=precision, **quiet)


def test_a_checkpoint_that_is_tested_after_fit_gives_its_average(tmp_path: Path) -> None:
    module, trainer = Trained(), averaging_trainer(tmp_path, 1)
    data = torch.utils.data.DataLoader(torch.ones(3, 3))
    trainer.fit(module, data)
    averaged = module.layer.weight.clone()
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not torch.equal(saved["current_model_state"]["layer.weight"], averaged)
    trainer.test(module, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False)
    assert torch.equal(module.tested, averaged)


def test_weights_in_half_precision_are_not_averaged(tmp_path: Path) -> None:
    trainer, data = averaging_trainer(tmp_path, 1, "bf16-true"), torch.utils.data.DataLoader(torch.ones(3, 3))
    with pytest.raises(UserError, match=r"not averaged in trainer\.precision bf16-true"):
        trainer.fit(Trained(), data)
    averaging_trainer(tmp_path, 1, "bf16-mixed").fit(Trained(), data)


class MidValidation(Callback):
    """Saves a checkpoint during a validation, and one after it, between which nothing is trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / "during.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "after.ckpt")


def test_a_checkpoint_from_within_a_validation_tells_average_and_trained_weights_apart(tmp_path: Path) -> None:
    class Validated(Trained):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            pass

    trainer = averaging_trainer(tmp_path, 2)
    trainer.callbacks.append(MidValidation(tmp_path))  # type: ignore[attr-defined]
    data = torch.utils.data.DataLoader(torch.ones(3, 3))
    trainer.fit(Validated(), data, data)
    during, after = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("during", "after"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert during[part].keys() == after[part].keys()
        assert all(torch.equal(value, after[part][name]) for name, value in during[part].items())
    assert not torch.equal(after["state_dict"]["layer.weight"], after["current_model_state"]["layer.weight"])


def test_an_average_takes_the_form_of_the_checkpoint_that_a_run_goes_on_from(tmp_path: Path) -> None:
    module = Trained()
    module.layer = torch.nn.Linear(3, 5)
    data = torch.utils.data.DataLoader(torch.ones(3, 3))
    averaging_trainer(tmp_path, 1).fit(module, data)
    resumed = Trained()
    averaging_trainer(tmp_path, 2).fit(resumed, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert resumed.layer.weight.shape == (5, 3)
