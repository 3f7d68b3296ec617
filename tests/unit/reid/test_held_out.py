"""Trainings that hold out nobody, and what is said of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from diffreid_lightning.cli.main import main
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.held_out import warn_of_no_epoch, warn_of_nobody, why_nobody
from tests.fixtures.dataset_layouts import write_market1501

pytestmark = pytest.mark.filterwarnings("ignore:.*published counts.*")
REASON = "no one in train is seen by two cameras, of 1 in all"


@pytest.fixture
def one_camera(tmp_path: Path) -> Path:
    return write_market1501(tmp_path / "market", train_ids=range(2, 8), cameras=(3,))


@pytest.mark.parametrize(
    ("share", "reason"), [(0.5, f"data.val_share 0.5 holds out nobody: {REASON}"), (0.0, "is 0"), (None, "is null")]
)
def test_the_reason_is_the_true_one(share: float | None, reason: str, one_camera: Path) -> None:
    data = ReIDDataModule(str(one_camera), val_share=share, image_size=(64, 32))
    assert data.val_set is None and reason in why_nobody(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_nobody(data)
    said = [str(each.message) for each in caught if "There is no validation" in str(each.message)]
    assert len(said) == bool(share) and all(reason in text for text in said)


def test_people_who_are_held_out_and_never_validated_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    market = write_market1501(tmp_path / "market", train_ids=range(2, 8))
    data = ReIDDataModule(str(market), val_share=0.5, image_size=(64, 32))
    warn_of_no_epoch(data, None)
    warn_of_no_epoch(ReIDDataModule(str(market), val_share=0.0, image_size=(64, 32)), "no epoch is validated")
    assert not [each for each in recwarn.list if "never validated" in str(each.message)]
    with pytest.warns(UserWarning, match=r"3 people are held out .* never validated: no epoch is validated"):
        warn_of_no_epoch(data, "no epoch is validated")


def test_commands_give_the_reason(one_camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        f"--data.train={one_camera}",
        "--data.val_share=0.5",
        "--data.image_size=[64,32]",
        "--trainer.logger=false",
    ]
    words += ["--model.backbone=test_resnet", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    for command in (["validate"], ["fit", "--test_with=best", f"--data.test={write_market1501(tmp_path / 'test')}"]):
        assert main([*command, *words]) == 2
        assert REASON in " ".join(capsys.readouterr().err.split())
