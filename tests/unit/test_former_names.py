"""Configurations of earlier versions: moved and renamed classes, renamed arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffreid_lightning import config_files, former_names, registry

OLD = """
model:
  class_path: diffreid_lightning.diffusion.personalise.Personalisation
  init_args:
    tokens: {class_path: diffreid_lightning.diffusion.identity_tokens.FreeTokens}
data:
  class_path: diffreid_lightning.data.reid.ReIDDataModule
  init_args:
    train_view: {class_path: diffreid_lightning.data.transforms.TrainView, init_args: {colour: 0.2}}
trainer:
  callbacks:
  - class_path: diffreid_lightning.callbacks.BackboneExport
  - class_path: lightning.pytorch.callbacks.LearningRateMonitor
"""


def test_classes_and_arguments_of_an_old_config_are_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OLD, encoding="utf-8")
    settings = config_files.load_config(tmp_path / "config.yaml")
    assert settings["model"]["class_path"] == "Personalization"
    assert settings["model"]["init_args"]["tokens"]["class_path"] == "FreeTokens"
    assert settings["data"]["init_args"]["train_view"] == {"class_path": "TrainView", "init_args": {"color": 0.2}}
    assert [one["class_path"] for one in settings["trainer"]["callbacks"]] == [
        "BackboneExport",
        "lightning.pytorch.callbacks.LearningRateMonitor",
    ]


def test_a_moved_class_is_no_change() -> None:
    now = OLD.replace("diffusion.personalise.Personalisation", "personalization.module.Personalization")
    now = now.replace("colour: 0.2", "color: 0.3").replace("data.reid.", "reid.datamodule.")
    (change,) = config_files.changed_settings(OLD, now)
    assert str(change) == "data.init_args.train_view.init_args.color 0.2 -> 0.3"


@pytest.mark.parametrize(
    "path",
    [
        "a.b.Mine",
        "Mine",
        "my_models.ColourCaptioner",
        "torch.optim.Adam",
        "diffreid_lightning.reid.supervised.SupervisedReID",
    ],
)
def test_other_paths_stay(path: str) -> None:
    assert former_names.current_class(path) == path


def test_a_class_whose_module_was_renamed_is_found() -> None:
    assert former_names.current_class("diffreid_lightning.datasets.subset.Subset") == "Subset"
    assert "Subset" in {cls.__name__ for cls in registry.CLASSES}


def test_arguments_of_other_classes_keep_their_names() -> None:
    settings = {"model": {"class_path": "a.b.Mine", "init_args": {"colour": 1, "licence": "mine"}}, "licence": "mit"}
    assert former_names.current(settings) == {"model": settings["model"], "license": "mit"}
    own = {"train_view": {"class_path": "my_views.View", "init_args": {"colour": 0.1}}}
    assert former_names.current({"data": {"init_args": own}, "model": {"class_path": "a.Mine", "init_args": own}}) == {
        "data": {"init_args": own}, "model": {"class_path": "a.Mine", "init_args": own},
    }  # fmt: skip
    short = {"data": {"train_view": {"colour": 0.1}}}
    assert former_names.current(short) == {"data": {"train_view": {"color": 0.1}}}


def test_every_former_class_has_its_successor() -> None:
    names = {cls.__name__ for cls in registry.CLASSES}
    assert set(former_names._CLASSES.values()) <= names
    assert not set(former_names._CLASSES) & names
