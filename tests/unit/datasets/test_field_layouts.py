"""Datasets of this field: none is read wrongly, and what is said of a refused one reads it when it is done."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import PersonFolder
from diffreid_lightning.datasets.inspect import Report, check
from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.datamodule import ReIDDataModule
from tests.fixtures.dataset_layouts import zip_folder
from tests.fixtures.field_layouts import FIELD_LAYOUTS, Layout, Numbers

Write = Callable[[Path], Layout]
layouts = pytest.mark.parametrize("write", FIELD_LAYOUTS, ids=lambda write: write.__name__)


def numbers(report: Report) -> Numbers:
    return {one.split: (one.counts.ids, one.counts.images, one.counts.cameras) for one in report.splits}


@layouts
def test_the_general_form_reads_it_from_a_folder_and_from_a_zip(write: Write, tmp_path: Path) -> None:
    expected = write(tmp_path / "set")
    for place in (tmp_path / "set", zip_folder(tmp_path / "set", tmp_path / "set.zip", "set")):
        report = check(PersonFolder(place, **expected.options))
        assert numbers(report) == expected.numbers and report.junk == expected.junk
        assert report.unmatched_queries == 0 and report.problems == []


@layouts
def test_a_bare_path_is_refused_and_the_printed_command_reads_it(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = write(tmp_path / "set")
    derived = expected.numbers if expected.derived is None else expected.derived
    assert main(["data", "check", str(tmp_path / "set")]) == 2
    said = capsys.readouterr().err
    found = re.search(r"python -m diffreid_lightning (data check .*)\n", said)
    assert found is not None, said
    assert main(shlex.split(found[1])) == 0
    printed = capsys.readouterr().out
    for split, (ids, images, cameras) in derived.items():
        assert re.search(rf"{split} +│ +{ids} │ +{images} │ +{cameras} │", printed), printed
        assert f"{split}: {ids} ids, {images} images, {cameras} cameras" in said
    assert len(re.findall(r"│ +\d+/", printed)) == len(derived)


@layouts
def test_training_takes_train_alone(write: Write, tmp_path: Path) -> None:
    expected = write(tmp_path / "set")
    with pytest.raises(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ReIDDataModule(str(tmp_path / "set")).train_set  # noqa: B018
    if "train" not in expected.numbers:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = PersonFolder(tmp_path / "set", **expected.options)
        module = ReIDDataModule(dataset, image_size=(32, 16), val_share=None)
        ids, images, _ = expected.numbers["train"]
        assert (module.num_identities, len(module.train_set)) == (ids, images)
        assert module.train_set[0].image.shape == (3, 32, 16)
