"""Numbers are of the whole set or of nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from diffreid_lightning.errors import UserError
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.reid.feature_writer import FeatureWriter
from diffreid_lightning.reid.results_table import ResultsTable
from tests.fixtures.color_features import Colors

MakeTrainer = Callable[..., Trainer]


def test_every_image_seen_is_a_result(data: ReIDDataModule, trainer: MakeTrainer) -> None:
    evaluator = RetrievalEvaluator()
    run = trainer(evaluator)
    run.test(Colors(), datamodule=data, verbose=False)
    assert run.callback_metrics["test/mAP"] == pytest.approx(100 * float(evaluator.results["test"].mAP))


@pytest.mark.parametrize("limit", [1, 2, 0.5])
def test_part_of_the_set_is_a_warning_and_no_number(
    limit: int | float, data: ReIDDataModule, trainer: MakeTrainer
) -> None:
    """One batch holds queries alone, which the metric itself would refuse."""
    evaluator = RetrievalEvaluator()
    run = trainer(evaluator, limit_test_batches=limit)
    with pytest.warns(UserWarning, match=r"Only \d+ of \d+ images of the test set"):
        run.test(Colors(), datamodule=data, verbose=False)
    assert not evaluator.results
    assert not run.callback_metrics


def test_a_limit_that_leaves_nothing_out_is_a_result(data: ReIDDataModule, trainer: MakeTrainer) -> None:
    batches = -(-len(data.test_set) // 4)
    evaluator = RetrievalEvaluator()
    trainer(evaluator, limit_test_batches=batches).test(Colors(), datamodule=data, verbose=False)
    assert "test" in evaluator.results


def test_a_step_that_returns_no_features_is_named(data: ReIDDataModule, trainer: MakeTrainer) -> None:
    class Loss(Colors):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.zeros(())

    with pytest.raises(UserError, match=r"(?s)Loss cannot be evaluated.*FeatureBatch.*Tensor"):
        trainer(RetrievalEvaluator()).test(Loss(), datamodule=data, verbose=False)


def test_data_without_a_retrieval_set_are_refused_before_the_work(data: ReIDDataModule, trainer: MakeTrainer) -> None:
    class Unasked(Colors):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError

        predict_step = test_step

    loaders = data.test_dataloader()
    with pytest.raises(UserError, match="RetrievalEvaluator does not work on plain dataloaders"):
        trainer(RetrievalEvaluator()).test(Unasked(), dataloaders=loaders, verbose=False)
    with pytest.raises(UserError, match="FeatureWriter does not work on LightningDataModule"):
        foreign = LightningDataModule.from_datasets(predict_dataset=data.test_set)
        trainer(FeatureWriter()).predict(Unasked(), datamodule=foreign, return_predictions=False)


@pytest.mark.parametrize(("trained", "weights"), [(False, "RUN/backbone"), (True, "the module as it is")])
def test_the_table_names_the_weights_as_they_were_given(
    trained: bool, weights: str, data: ReIDDataModule, trainer: MakeTrainer, tmp_path: Path
) -> None:
    module: Any = Colors()
    module.init_from, module.trained = "RUN/backbone", trained
    trainer(RetrievalEvaluator(), ResultsTable()).test(module, datamodule=data, verbose=False)
    (row,) = csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8"))
    assert row["weights"] == weights


def test_an_older_result_does_not_outlive_a_partial_evaluation(data: ReIDDataModule, trainer: MakeTrainer) -> None:
    evaluator = RetrievalEvaluator()
    trainer(evaluator).test(Colors(), datamodule=data, verbose=False)
    with pytest.warns(UserWarning, match="were seen"):
        trainer(evaluator, limit_test_batches=1).test(Colors(), datamodule=data, verbose=False)
    assert not evaluator.results


@pytest.mark.parametrize(("other", "complete"), [([0, 2, 4], True), ([0, 2], False)])
def test_processes_are_counted_together_and_a_padded_row_once(other: list[int], complete: bool) -> None:
    class Strategy:
        """Adds what another process saw of five images; this one saw rows 1, 3 and a padded 0."""

        def reduce(self, seen: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "sum"
            return seen + torch.bincount(torch.tensor(other), minlength=5).to(seen)

    class Stub:
        strategy = Strategy()
        device = torch.device("cpu")
        sanity_checking = False
        datamodule: Any

        def retrieval_set(self, stage: str) -> range:
            return range(5)

    stub = Stub()
    stub.datamodule = stub
    evaluator = RetrievalEvaluator()
    row = torch.tensor([1, 3, 0])
    evaluator.metric.update(torch.rand(3, 2), row, row, row > 0, row)
    if complete:
        assert evaluator._complete(stub, stub, "test")  # type: ignore[arg-type]
        return
    with pytest.warns(UserWarning, match="Only 4 of 5"):
        assert not evaluator._complete(stub, stub, "test")  # type: ignore[arg-type]
